"""Kernel tests keep their builds in one folder per user, so that a second run compiles nothing."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the pairs and faults that the tests share


@pytest.fixture(autouse=True, scope="session")
def _builds() -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++ here: the host backend cannot be built", allow_module_level=True)


@pytest.fixture(scope="session")
def _thrown_away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("builds")


@pytest.fixture
def scratch_builds(_thrown_away: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds of broken sources, which nobody asks for again, stay out of the user's cache."""
    monkeypatch.setenv("HECATE_KERNEL_CACHE", str(_thrown_away))
