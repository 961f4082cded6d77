"""SIGINT and SIGTERM: the step ends, a checkpoint is saved, the run goes on later as if nothing had been."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hecate_core import building
from hecate_core.building import Build, build
from hecate_core.config import Config, make_config
from hecate_core.corpus import Corpus, open_corpus
from hecate_core.errors import ExitCode, Terminated
from hecate_core.run_folder import RunFolder
from hecate_core.stopping import Stop, stopping

SIGNALS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]


def config(**run: Any) -> Config:
    return make_config({
        "data": {"batch": 2, "length": 8},
        "model": {"width": 8, "depth": 1, "heads": 2, "memory": {"chunk": 4}},
        "run": {"steps": 5, "eval_interval": 0, "checkpoint_interval": 0, **run},
    })  # fmt: skip


@pytest.fixture(autouse=True)
def corpus(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    whole = open_corpus()
    small = Corpus("small", whole.train[:4000], (0,), whole.heldout[:2], "0" * 64)
    monkeypatch.setattr(building, "open_corpus", lambda _: small)
    return small


def parameters(made: Build) -> dict[str, bytes]:
    return {name: one.detach().numpy().tobytes() for name, one in made.model.state_dict().items()}


@pytest.mark.parametrize(("number", "raised"), SIGNALS)
def test_a_signal_in_the_middle_of_a_step_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: type[BaseException]
) -> None:
    """The signal comes while parameters move; what is saved is the whole step, bit for bit."""
    whole = build(config(), RunFolder(tmp_path / "whole"))
    optimizer, updates = type(whole.optimizer), len(whole.optimizer.parameters)
    ordinary, calls = optimizer._update, []

    def update(self: Any, *given: Any) -> None:
        calls.append(1)
        if len(calls) == updates + updates // 2:  # in the middle of the second step
            os.kill(os.getpid(), number)
        ordinary(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(optimizer, "_update", update)
        with pytest.raises(raised):
            build(config(), RunFolder(tmp_path / "cut"))
    assert len(calls) == 2 * updates
    assert RunFolder(tmp_path / "cut").checkpoints.steps() == [2]
    assert parameters(build(config(), RunFolder(tmp_path / "cut"), resume=True)) == parameters(whole)


def test_a_signal_during_an_evaluation_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def evaluate(self: Build) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append("not reached")
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(Build, "evaluate", evaluate)
        with pytest.raises(Terminated):
            build(config(eval_interval=2), RunFolder(tmp_path / "run"))
    assert seen == []
    folder = RunFolder(tmp_path / "run")
    assert folder.checkpoints.steps() == [2]
    assert len(folder.metrics.read_text().splitlines()) == 2


def test_an_interrupt_that_tears_a_step_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a second Ctrl-C, or from a program with a handler of its own."""

    def torn(self: Build, chunk: Any) -> Any:
        if self.steps_done == 3:
            raise KeyboardInterrupt
        return ordinary(self, chunk)

    ordinary = Build._forward_backward
    monkeypatch.setattr(Build, "_forward_backward", torn)
    with pytest.raises(KeyboardInterrupt):
        build(config(checkpoint_interval=2), RunFolder(tmp_path / "run"))
    assert RunFolder(tmp_path / "run").checkpoints.steps() == [2]


def test_a_second_signal_does_not_wait() -> None:
    with stopping():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back_and_those_of_others_stay() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before

    def other(number: int, frame: Any) -> None:
        """A host program's own."""

    signal.signal(signal.SIGTERM, other)
    try:
        with stopping():
            assert signal.getsignal(signal.SIGTERM) is other
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_heard() -> None:
    heard: list[Stop] = []

    def work() -> None:
        with stopping() as stop:
            heard.append(stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    heard[0].obey()


CHILD = """
import os, signal, sys
from hecate_core.building import Build
from hecate_core.cli.main import run
ordinary = Build.step
def step(self):
    if self.steps_done == 2:
        os.kill(os.getpid(), signal.{name})
    return ordinary(self)
Build.step = step
words = "--set model.width=8 --set model.depth=1 --set data.length=8 --set data.batch=2 --set model.memory.chunk=4"
sys.exit(run(["build", "--out", "run", *words.split()]))
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", ExitCode.INTERRUPTED), ("SIGTERM", ExitCode.TERMINATED)])
def test_the_command_line_ends_with_the_signals_status(tmp_path: Path, name: str, status: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CHILD.format(name=name)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == status, ran.stderr
    assert "continue with: hecate build --out run --resume" in ran.stderr
    assert [one.name for one in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-3"]
