"""The workspace itself: what is importable from elsewhere, and what importing costs."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("folder", ["lint", "kernels", "plugins", "specs", "tests"])
def test_workspace_folders_are_not_importable_from_elsewhere(folder: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd="/", capture_output=True, text=True, check=False
    )
    assert "ModuleNotFoundError" in run.stderr


def test_importing_hecate_core_imports_no_torch() -> None:
    code = "import hecate_core, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd="/", check=True)
