"""The package that `hecate new rule` makes is clean under --strict and silences nothing."""

import subprocess
import sys
from pathlib import Path

import pytest


def test_package_of_hecate_new_is_clean_and_silences_nothing(tmp_path: Path) -> None:
    pytest.importorskip("hecate_core")
    made = [sys.executable, "-m", "hecate_core.cli", "new", "rule", "acme", "--dir", "acme"]
    subprocess.run(made, cwd=tmp_path, capture_output=True, check=True)
    assert len(list((tmp_path / "acme").rglob("*.py"))) >= 3
    command = [sys.executable, "-m", "hecate_lint", "--no-cache", "--strict", "acme"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "no findings" in done.stdout
    assert "suppressed" not in done.stdout
