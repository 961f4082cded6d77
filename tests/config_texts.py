"""Configs as text: written to a file, and what is said about a wrong one."""

from pathlib import Path

import pytest

from hecate_core.config import load_config as load
from hecate_core.errors import ConfigError


def written(tmp_path: Path, text: str, name: str = "c.toml") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def complaint(path: Path, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as raised:
        load(path, overrides)
    text = str(raised.value)
    assert "\n" not in text
    return text.removeprefix(f"{path.parent}/")
