"""What a run survives: a full disk at any operation, a second writer; and what its manifest says."""

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hecate_core import building, files, provenance
from hecate_core.building import Build, build
from hecate_core.checkpoint import complete, load
from hecate_core.cli.main import run
from hecate_core.config import Config, config_digest, make_config
from hecate_core.corpus import Corpus, open_corpus
from hecate_core.errors import DataError, HecateError
from hecate_core.failing_disk import FailingDisk
from hecate_core.run_folder import RunFolder


def config(**run: Any) -> Config:
    return make_config({
        "data": {"batch": 2, "length": 8},
        "model": {"width": 8, "depth": 1, "heads": 2, "memory": {"chunk": 4}},
        "schedule": {"decay": "constant"},
        "run": {"steps": 3, "eval_interval": 0, "checkpoint_interval": 1, "keep": 2, **run},
    })  # fmt: skip


@pytest.fixture(autouse=True)
def corpus(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    whole = open_corpus()
    small = Corpus("small", whole.train[:4000], (0,), (whole.heldout[0][:40],), "0" * 64)
    monkeypatch.setattr(building, "open_corpus", lambda _: small)
    return small


@pytest.fixture
def disk() -> Iterator[None]:
    before = files.disk
    yield
    files.disk = before


def parameters(made: Build) -> dict[str, bytes]:
    return {name: one.detach().numpy().tobytes() for name, one in made.model.state_dict().items()}


def operations(tmp_path: Path) -> int:
    files.disk = counting = FailingDisk(0)
    build(config(), RunFolder(tmp_path / "whole", keep=2))
    return counting.done


@pytest.mark.usefixtures("disk")
def test_a_disk_that_is_full_from_any_operation_on_ends_the_run_with_its_checkpoints_intact(tmp_path: Path) -> None:
    """Every eleventh operation: status 4, every listed checkpoint opens, and the run goes on to the same end."""
    ordinary, count = files.disk, operations(tmp_path)
    whole = parameters(_resumed(tmp_path / "whole", ordinary))
    listed = 0
    for at in range(1, count, 11):
        place = tmp_path / f"at-{at}"
        files.disk = FailingDisk(at, "ENOSPC", stays=True)
        with pytest.raises(HecateError, match="No space left") as caught:
            build(config(), RunFolder(place, keep=2))
        assert caught.value.exit_code == 4
        files.disk = ordinary
        found = complete(place / "checkpoints") if (place / "checkpoints").is_dir() else {}
        for path in found.values():
            load(path)
        listed += bool(found)
        if found:
            assert parameters(_resumed(place, ordinary)) == whole, f"operation {at}"
    assert listed > 3, "the disk was full before and after checkpoints"


def _resumed(place: Path, disk: files.Disk) -> Build:
    files.disk = disk
    return build(config(), RunFolder(place, keep=2), resume=True)


@pytest.mark.usefixtures("disk")
def test_the_command_line_ends_with_status_four_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "--set model.width=8 --set model.depth=1 --set data.length=8 --set data.batch=2 --set model.memory.chunk=4"
    more = "--set run.steps=4 --set run.checkpoint_interval=1 --set run.eval_interval=0 --out run"
    ordinary = Build.step

    def step(self: Build) -> Any:
        if self.steps_done == 2:
            files.disk = FailingDisk(1, stays=True)
        return ordinary(self)

    monkeypatch.setattr(Build, "step", step)
    assert run(["build", *words.split(), *more.split()]) == 4
    complaints = [one for one in capsys.readouterr().err.splitlines() if not one.startswith(("run ", "step "))]
    assert len(complaints) == 1
    assert "No space left" in complaints[0]
    assert list(complete(Path("run/checkpoints"))) == [1, 2]


def test_a_second_writer_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process writes to the run; neither a resume nor a new run may join it."""
    monkeypatch.chdir(tmp_path)
    build(config(steps=1), RunFolder("run"))
    before = {str(path): path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(Path("run"), ready, done))
    other.start()
    try:
        assert ready.wait(30)
        assert run(["build", "--resume", "--out", "run"]) == 2
        assert capsys.readouterr().err.splitlines() == ["run: another process writes there; expected to be alone"]
        Path("run/manifest.json").rename("kept.json")
        assert run(["build", "--set", "model.width=8", "--out", "run"]) == 2
        assert "another process writes there" in capsys.readouterr().err
        Path("kept.json").rename("run/manifest.json")
    finally:
        done.set()
        other.join(30)
    assert before == {str(path): path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    build(config(steps=2), RunFolder("run"), resume=True)


def _hold(place: Path, ready: Any, done: Any) -> None:
    with files.exclusive(place):
        ready.set()
        done.wait(60)


def test_a_text_too_short_to_hold_anything_out_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Corpus
) -> None:
    bare = Corpus("bare", corpus.train, (0,), (), "0" * 64)
    monkeypatch.setattr(building, "open_corpus", lambda _: bare)
    with pytest.raises(DataError, match="too short to hold anything out"):
        build(config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_manifest_says_everything_that_a_number_may_depend_on(tmp_path: Path) -> None:
    build(config(steps=1), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert found["seed"] == 0
    assert len(found["config_digest"]) >= 32
    assert found["data"] == {"name": "small", "sha256": "0" * 64}
    assert {"distribution", "version", "digest"} <= set(found["plugins"][0])
    assert "hecate-titans" in {one["distribution"] for one in found["plugins"]}
    assert found["versions"] == provenance.versions()
    assert found["versions"]["torch"] == torch.__version__
    assert (found["device"], found["dtype"], found["autocast"]) == ("cpu", "float32", None)
    assert found["numerics"] == {"float32_matmul": "highest", "deterministic": False}
    assert found["threads"] == torch.get_num_threads()
    assert {"processor", "cores", "system"} <= set(found["machine"])
    assert {"commit", "dirty"} <= set(found)
    assert found["resumed"] == []


def test_a_resume_is_written_into_the_manifest(tmp_path: Path) -> None:
    build(config(steps=1), tmp_path / "run")
    first = json.loads((tmp_path / "run" / "manifest.json").read_text())
    build(config(steps=2), tmp_path / "run", resume=True)
    found = json.loads((tmp_path / "run" / "manifest.json").read_text())
    (again,) = found.pop("resumed")
    assert again["step"] == 1
    assert {"versions", "machine", "threads", "commit", "dirty"} <= set(again)
    first["config_digest"] = config_digest(config(steps=2))
    assert found == {key: value for key, value in first.items() if key != "resumed"}


def test_commit_and_dirty_are_those_of_the_checkout(tmp_path: Path) -> None:
    import subprocess

    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        ran = subprocess.run(["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    git("init", "-q")
    assert provenance.commit(tmp_path) == {"commit": None, "dirty": None}
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-q", "-m", "a")
    assert provenance.commit(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("b")
    assert provenance.commit(tmp_path)["dirty"] is True
