"""docs/lint-performance.md says what the measured file says."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_page_is_made_of_the_measurements() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "lint.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_page_names_its_file_by_its_content() -> None:
    values = json.loads((ROOT / "benchmarks/results/lint.json").read_text())
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    assert f"content id `{digest[:12]}`" in (ROOT / "docs" / "lint-performance.md").read_text()
