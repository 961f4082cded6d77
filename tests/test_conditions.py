"""What two runs are compared by, read from real builds, and how a difference is put."""

import re
from pathlib import Path

import pytest

from hecate_core.building import build
from hecate_core.cli.main import run
from hecate_core.comparing import compare, side
from hecate_core.conditions import CONDITIONS, clashes
from hecate_core.config import make_config
from hecate_core.errors import InputError
from hecate_core.run_folder import RunFolder, load_manifest

from .test_comparing import put, sides

TINY = {
    "data": {"task": {"name": "parity", "tokens": 8}, "batch": 2},
    "model": {"vocab": 2, "width": 8, "heads": 1, "depth": 1, "composition": "attention", "memory": "none"},
    "optimizer": {"name": "muon"},
    "run": {"steps": 1, "eval_interval": 0, "checkpoint_interval": 0},
}


def made(folder: Path, **data: object) -> Path:
    build(make_config({**TINY, "data": {**TINY["data"], **data}}), RunFolder(folder))
    return folder


def test_a_manifest_names_core_and_the_plugin_of_the_task(tmp_path: Path) -> None:
    """Both decide the score of a run whose model has nothing of theirs."""
    names = {one["distribution"] for one in load_manifest(made(tmp_path / "run"))["plugins"]}
    assert {"hecate-core", "hecate-tasks", "hecate-optimizers"} <= names


def test_a_task_reads_its_own_length_whatever_the_data_say(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one", length=32), made(tmp_path / "two", length=64)
    assert clashes([*side(one), *side(two)]) == {}
    longer = made(tmp_path / "three", task={"name": "parity", "tokens": 16})
    found = clashes([*side(one), *side(longer)])
    assert found["budget"] == "16 against 32"
    assert found["data"] == "task.tokens 8 against 16"


def test_of_long_values_the_part_that_differs_is_shown(tmp_path: Path) -> None:
    a, b = sides(tmp_path, put(1, "data.name", "a" * 200 + "other"))
    for folder in a.glob("*/manifest.json"):
        folder.write_text(folder.read_text().replace('"name": "text"', f'"name": "{"a" * 200}this"'))
    with pytest.raises(InputError, match=r"data: name \.\.\.a+this against \.\.\.a+other \("):
        compare(side(a), side(b))


def test_levels_are_told_one_by_one(tmp_path: Path) -> None:
    a, b = sides(tmp_path, put(0, "model.memory.levels", [{}, {"write_period": 4}]))
    settings = compare(side(a), side(b)).settings
    assert "model.memory.levels.1.write_period none against 4" in settings
    assert not any("levels.0" in words for words in settings)


def test_several_sides_are_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two comparisons at once have the bound of 97.5 %."""
    a, b = sides(tmp_path, bits=(2.0, 2.1, 1.9))
    assert run(["compare", str(a), str(b), str(a)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("B is better: beyond 6.205 standard errors of 0 (t, 95%, n = 3, 2 comparisons)" in one for one in lines)
    assert any(one.startswith("bits_per_byte: C - A +0.0000") and "no winner" in one for one in lines)


def test_the_page_names_every_condition() -> None:
    page = (Path(__file__).parent.parent / "docs" / "evidence.md").read_text(encoding="utf-8")
    told = page.split("## Comparisons", 1)[1]
    assert [key for key in CONDITIONS if not re.search(rf"\b{key}\b", told)] == []
