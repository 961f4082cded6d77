"""The workspace itself: what is importable from elsewhere, and what importing costs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("folder", ["lint", "kernels", "plugins", "specs", "tests"])
def test_workspace_folders_are_not_importable_from_elsewhere(folder: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd="/", capture_output=True, text=True, check=False
    )
    assert "ModuleNotFoundError" in run.stderr


def test_importing_hecate_core_imports_no_torch() -> None:
    code = "import hecate_core, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd="/", check=True)


def test_every_member_is_known_to_the_type_checker_and_to_the_floors() -> None:
    """Neither tool takes a pattern; a member that is missing there is checked by halves, or not at all."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    sources = [*ROOT.glob("plugins/*/src"), ROOT / "kernels" / "src", ROOT / "lint" / "src"]
    expected = {f"$MYPY_CONFIG_FILE_DIR/{source.relative_to(ROOT)}" for source in sources}
    assert expected | {"$MYPY_CONFIG_FILE_DIR"} == set(tools["mypy"]["mypy_path"])
    packages = {package.name for source in sources for package in source.glob("hecate_*") if package.is_dir()}
    packages = {name for name in packages if not name.endswith(".egg-info")}
    assert packages | {"hecate_core"} == set(tools["importlinter"]["root_packages"])
