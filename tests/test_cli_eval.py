"""`hecate eval`: whatever can be refused is refused before the first score, in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hecate_core import evaluation
from hecate_core.cli.main import run

from .tiny_text import tiny, write_text


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_text(300)
    Path("tiny.toml").write_text(tiny(steps=2, interval=0))
    assert run(["build", "tiny.toml", "--out", "run"]) == 0
    return tmp_path / "run"


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows by one with every score in bits per byte."""
    seen: list[bool] = []

    def score(*_: object, remember: bool) -> float:
        seen.append(remember)
        return 1.5

    monkeypatch.setattr(evaluation, "bits_per_byte", score)
    return seen


def test_each_switch_is_scored_once(scored: list[bool], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "run"]) == 0
    assert scored == [True, False]
    assert capsys.readouterr().out.count("1.5000 bits per byte") == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--task", "lm,nope"], 'task "nope"'),
        (["--task", ""], '--task ""; expected names with commas between them, each once'),
        (["--task", "lm,"], '--task "lm,"; expected names'),
        (["--task", "lm,lm"], "each once"),
        (["--memory", "on,on"], '--memory "on,on"; expected names'),
        (["--memory", ""], '--memory ""'),
        (["--memory", "maybe"], "expected on, off or on,off"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_scored(
    words: list[str], line: str, scored: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["eval", "run", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert line in err
    assert scored == []


def test_a_task_of_more_ids_is_asked_over_those_the_model_has(
    scored: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["eval", "run", "--task", "lm,mqar,niah", "--memory", "on", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    _, mqar, niah = made["scores"]
    assert (mqar["vocab"], mqar["chance"], mqar["built_on"]) == (256, 1 / 128, False)
    assert niah["vocab"] == 256
    (recipe,) = made["recipes"]
    assert recipe["tasks"]["mqar"] == {"vocab": 256, "tokens": 64, "chance": 1 / 128}
    assert recipe["checkpoint"] == "step-2"
    assert recipe["contexts"] == 256
    assert recipe["config"]["model"]["vocab"] == 256
    assert set(recipe["scored"]) >= {"versions", "machine", "threads", "commit"}


def test_a_task_that_fits_no_model_so_small_says_what_it_expects(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build", "tiny.toml", "--set", "data.task=parity", "--set", "model.vocab=2", "--out", "two"]) == 0
    capsys.readouterr()
    assert run(["eval", "two", "--task", "mqar"]) == 2
    assert "mqar: vocab 2, " in capsys.readouterr().err
    assert run(["eval", "two", "--task", "niah"]) == 2
    assert 'task "niah" uses 256 ids; expected model.vocab >= 256, not 2' in capsys.readouterr().err


def other_text(_: Path) -> None:
    Path("text.txt").write_text(Path("text.txt").read_text() + "one line more\n")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "expected the manifest of a run"),
        (lambda folder: (folder / "manifest.json").write_text('{"schema": "hecate.run/1"}'), "is another text"),
        (other_text, "text.txt: is another text (sha256 "),
    ],
)
def test_a_run_or_text_that_is_not_what_was_built_is_refused(
    folder: Path, damage: Callable[[Path], object], line: str, scored: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    damage(folder)
    assert run(["eval", "run"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert line in err
    assert scored == []


def test_a_replay_on_a_changed_text_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text(Path("text.txt").read_text().replace("square", "SQUARE"))
    assert run(["build", "--replay", "run", "--out", "again"]) == 1
    assert "(also different: data; bits repeat on" in capsys.readouterr().out
