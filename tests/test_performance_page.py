"""docs/performance.md says what the measured file says, number by number."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_is_made_of_the_measurements() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "report.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_names_each_file_by_its_content() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    for name in ("affine.json", "deep.json", "deep-batch-4.json"):
        values = json.loads((ROOT / "benchmarks" / "results" / name).read_text())
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        assert f"`{name}` (content id `{digest[:12]}`)" in page
