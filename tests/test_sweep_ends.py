"""A sweep that is killed or told to stop takes its runs with it, and goes on as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hecate_core.cli.main import run
from hecate_core.errors import ExitCode

from .tiny_text import tiny, write_text

# In every cell: its third step waits for the file "go", so that nothing here depends on how fast a run is.
HOOK = """
import os, sys, time
if "build" in sys.orig_argv:
    from hecate_core.building import Build
    from hecate_core.stopping import Stop
    step, signalled = Build.step, Stop.signalled

    def slow(self):
        if self.steps_done == 2:
            with open("pid.new", "w") as file:
                file.write(str(os.getpid()))
            os.rename("pid.new", "pid")
            while not os.path.exists("go"):
                time.sleep(0.01)
        return step(self)

    def heard(self, number, frame):
        with open("asked", "a") as file:
            file.write(f"{number} ")
        signalled(self, number, frame)

    Build.step, Stop.signalled = slow, heard
"""
WORDS = ["sweep", "sweep.toml", "--no-check", "--out"]
CELL = Path("cut/base/seed-0")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    write_text(60)
    Path("base.toml").write_text(tiny())
    Path("sweep.toml").write_text('base = "base.toml"\n')
    Path("hook").mkdir()
    Path("hook/sitecustomize.py").write_text(HOOK)
    yield
    with suppress(ProcessLookupError, FileNotFoundError):  # what a broken sweep leaves behind
        os.kill(int(Path("pid").read_text()), signal.SIGKILL)


def started(*words: str, hook: bool = False) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"PYTHONPATH": "hook"} if hook else {})}
    command = [sys.executable, "-m", "hecate_core.cli", *WORDS, "cut", *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def until(what: str, holds: Callable[[], bool]) -> None:
    """Wait for a condition; the deadline only turns what never comes into a failure."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)


def rows(name: str) -> Any:
    return json.loads(Path(name, "table.json").read_text())["rows"]


def assert_as_if_undisturbed() -> None:
    """The same table, and the run went on from the step in which it was told to stop."""
    assert run([*WORDS, "whole"]) == 0
    assert rows("cut") == rows("whole")
    assert [one["step"] for one in json.loads((CELL / "manifest.json").read_text())["resumed"]] == [3]


def test_a_sweep_told_to_stop_before_its_first_run_says_so() -> None:
    """A file that nobody writes holds it where it reads what to run."""
    os.mkfifo("held.toml")
    command = [sys.executable, "-m", "hecate_core.cli", "sweep", "held.toml"]
    sweep = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    writers: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):  # nobody reads it yet
            writers.append(os.open("held.toml", os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    def told_to_stop() -> str:
        """What it says; a signal between Python's last look at its signals and a read that waits takes another one."""
        for _ in range(12):
            sweep.terminate()
            with suppress(subprocess.TimeoutExpired):
                return sweep.communicate(timeout=5)[1]
        raise AssertionError("the sweep goes on")

    until("the file is opened", is_read)
    assert told_to_stop() == "hecate: terminated\n"
    assert sweep.returncode == ExitCode.TERMINATED
    os.close(writers[0])


def test_the_runs_of_a_killed_sweep_end_by_themselves_and_are_waited_for() -> None:
    sweep = started(hook=True)
    until("the third step", Path("pid").exists)
    sweep.kill()
    sweep.communicate()
    resumed = started("--resume")
    assert resumed.stderr is not None
    said = []
    for line in resumed.stderr:  # to its end, where it does not wait
        said.append(line)
        if line.startswith("waiting for base/seed-0: "):
            break
    assert said[-1].startswith("waiting for base/seed-0: "), said
    until("a signal to the run", Path("asked").exists)
    assert not (CELL / "checkpoints" / "step-3").exists()
    Path("go").touch()
    _, rest = resumed.communicate()
    assert resumed.returncode == ExitCode.DONE, rest
    assert_as_if_undisturbed()


@pytest.mark.parametrize(
    ("number", "send", "status"),
    [
        (signal.SIGTERM, os.kill, ExitCode.TERMINATED),
        (signal.SIGINT, os.killpg, ExitCode.INTERRUPTED),  # as a terminal does
    ],
    ids=["terminated", "ctrl-c"],
)
def test_a_sweep_that_is_told_to_stop_lets_its_runs_save(
    number: int, send: Callable[[int, int], None], status: ExitCode
) -> None:
    sweep = started(hook=True)
    until("the third step", Path("pid").exists)
    send(sweep.pid, number)
    until("a signal to the run", lambda: Path("asked").exists() or sweep.poll() is not None)
    Path("go").touch()
    _, said = sweep.communicate()
    assert sweep.returncode == status, said
    assert "continue with: hecate sweep sweep.toml --out cut --resume" in said
    assert Path("asked").read_text().split() == [str(int(signal.SIGTERM))]  # once: a second one would save nothing
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)
    assert run([*WORDS, "cut", "--resume"]) == 0
    assert_as_if_undisturbed()


def test_every_attempt_has_a_log_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("text.txt").read_bytes()
    Path("text.txt").unlink()
    assert run([*WORDS, "cut"]) == ExitCode.FOUND
    first = CELL.with_name("seed-0.log")
    said = first.read_text()
    Path("text.txt").write_bytes(text[:1])
    assert run([*WORDS, "cut", "--resume"]) == ExitCode.FOUND
    one, two = (line for line in capsys.readouterr().err.splitlines() if line.startswith("failed"))
    assert f"see {first}: " in one
    assert f"see {CELL.with_name('seed-0.2.log')}: " in two
    assert first.read_text() == said
