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
