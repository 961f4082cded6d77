"""docs/lint-performance.md says what the measured file says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_page_is_made_of_the_measurements() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "lint.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
