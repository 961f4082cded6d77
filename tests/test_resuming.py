"""`build --resume`: what a run that goes on leaves in its folder, and that one that cannot go on loses nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from hecate_core.cli.main import run
from hecate_core.config import config_digest, load_config

from .tiny_text import tiny, write_text


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of four steps in `run`, with checkpoints 2 and 4."""
    monkeypatch.chdir(tmp_path)
    write_text(600)
    Path("tiny.toml").write_text(tiny(decay="constant"))
    assert run(["build", "tiny.toml", "--out", "run"]) == 0
    return tmp_path / "run"


def resume(*words: str) -> int:
    return run(["build", "--resume", "--out", "run", *words])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def manifest(folder: Path, **changes: Any) -> dict[str, Any]:
    """The manifest, after some keys of it were changed."""
    place = folder / "manifest.json"
    table: dict[str, Any] = {**json.loads(place.read_text()), **changes}
    if changes:
        place.write_text(json.dumps(table))
    return table


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def test_a_refused_resume_leaves_the_finished_run_as_it_was(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(folder)
    Path("text.txt").write_text(Path("text.txt").read_text().replace("square", "SQUARE"))
    assert resume() == 4
    assert "the text at hand has" in capsys.readouterr().err
    assert content(folder) == before


@pytest.mark.parametrize("resumed", [3, {"step": 1}, [3]])
def test_a_damaged_manifest_is_refused_before_anything_is_cut(
    folder: Path, resumed: object, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest(folder, resumed=resumed)
    before = content(folder)
    assert resume() == 4
    assert '"resumed" is ' in capsys.readouterr().err
    assert content(folder) == before


@pytest.mark.parametrize("line", ['{"final": true}', '{"step": "a"}', '{"step": null, "loss": 1.0}', "[3]", '{"step"'])
def test_damaged_records_go_when_a_run_goes_on(folder: Path, line: str) -> None:
    before = records(folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    assert resume() == 0
    assert records(folder) == before


def test_more_steps_stand_in_config_and_digest(folder: Path) -> None:
    assert resume("--set", "run.steps=7", "--set", "run.eval_interval=3") == 0
    config = load_config(folder / "config.json")
    assert (config.run.steps, config.run.eval_interval) == (7, 3)
    assert manifest(folder)["config_digest"] == config_digest(config)
    assert [record["step"] for record in records(folder)] == [*range(7), 7]
    assert resume() == 0  # with its own config.json: seven steps, not four
    assert records(folder)[-1]["step"] == 7


@pytest.mark.parametrize("interval", [0, 2, 3])
def test_a_longer_run_is_repeated_by_a_replay(folder: Path, interval: int) -> None:
    """With an interval of 2 the whole run evaluates where the shorter one ended."""
    config = Path("tiny.toml").read_text().replace("eval_interval = 0", f"eval_interval = {interval}")
    Path("tiny.toml").write_text(config)
    folder.rename("before")
    assert run(["build", "tiny.toml", "--out", "run"]) == 0
    assert resume("--set", "run.steps=7") == 0
    assert run(["build", "--replay", "run", "--out", "again"]) == 0


def test_fewer_steps_than_are_done_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(folder)
    assert resume("--set", "run.steps=3") == 2
    assert "run.steps = 3, but 4 are done" in capsys.readouterr().err
    assert content(folder) == before
