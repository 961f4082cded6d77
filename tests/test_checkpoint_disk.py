"""Checkpoints under a failing disk and under SIGKILL: what was saved before stays whole."""

import os
import random
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hecate_core import files
from hecate_core.checkpoint import CheckpointFolder, complete, load
from hecate_core.errors import CheckpointError
from hecate_core.failing_disk import FailingDisk, Failure

from .checkpoints import parts_of, same


@pytest.fixture(autouse=True)
def _whole_disk_afterwards() -> Iterator[None]:
    yield
    files.disk = files.Disk()


@pytest.mark.parametrize(
    ("failure", "stays"), [("ENOSPC", False), ("ENOSPC", True), ("EIO", False), ("EIO", True), ("short", True)]
)
def test_whatever_operation_fails_the_previous_checkpoint_is_intact(
    failure: Failure, stays: bool, tmp_path: Path
) -> None:
    finished = 0
    for at in range(1, 60):
        root = tmp_path / str(at)
        folder = CheckpointFolder(root, keep=1)
        folder.save(1, parts_of(1), {"step": 1})
        files.disk = disk = FailingDisk(at, failure, stays=stays)
        complaint = ""
        try:
            folder.save(2, parts_of(2), {"step": 2})
        except CheckpointError as error:
            complaint = str(error)
        files.disk = files.Disk()
        for step, path in complete(root).items():
            assert same(load(path)[0], parts_of(step))
        assert complete(root), "the previous checkpoint is gone"
        assert ("not saved" in complaint and "\n" not in complaint) or (not complaint and 2 in complete(root))
        again = CheckpointFolder(root, keep=1)  # the next open
        assert {name for name in os.listdir(root) if name.startswith(".")} == set()
        again.save(3, parts_of(3), {"step": 3})
        assert again.steps() == [3]
        if disk.done < at:
            finished = at
            break
    assert finished > 15


def saving(root: Path, report: int) -> None:
    """Save for ever, and tell each step that was reported as saved."""
    folder = CheckpointFolder(root, keep=2)
    step = max(folder.steps(), default=0)
    while True:
        step += 1
        folder.save(step, parts_of(step % 5), {"step": step})
        os.write(report, struct.pack("<q", step))


def kill_while_saving(root: Path, chooser: random.Random) -> int:
    """Kill a saving process at a random moment after its first report; the last step it reported."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            saving(root, theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    try:
        reports = os.read(ours, 8)
        time.sleep(chooser.random() * 0.012)  # several saves long; any moment will do
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(ours, 1 << 16):
            reports = more
    finally:
        os.close(ours)
    return int(struct.unpack("<q", reports[-8:])[0])


def kills(root: Path, count: int) -> set[str]:
    """What was left over, as seen over all kills."""
    chooser, left = random.Random(count), set()
    for _ in range(count):
        last = kill_while_saving(root, chooser)
        listed = complete(root)
        assert last in listed  # what was reported as saved is there
        for step, path in listed.items():  # and everything listed opens
            parts, meta = load(path)
            assert same(parts, parts_of(step % 5))
            assert meta == {"step": step}
        left |= {name.split(".")[2].split("-")[0] for name in os.listdir(root) if name.startswith(".")}
        CheckpointFolder(root, keep=2)
        assert not [name for name in os.listdir(root) if name.startswith(".")]
    return left


def test_twenty_kills_while_saving_lose_nothing(tmp_path: Path) -> None:
    kills(tmp_path, 20)


@pytest.mark.soak
def test_three_hundred_kills_while_saving_lose_nothing(tmp_path: Path) -> None:
    assert "new" in kills(tmp_path, 300)  # some kills did hit the middle of a save


def test_killed_at_every_operation_of_a_save_nothing_reported_is_lost(tmp_path: Path) -> None:
    for at in range(1, 60):
        root = tmp_path / str(at)
        CheckpointFolder(root, keep=1).save(1, parts_of(1), {"step": 1})
        child = os.fork()
        if child == 0:
            try:
                files.disk = FailingDisk(at, "kill")
                CheckpointFolder(root, keep=1).save(2, parts_of(2), {"step": 2})
            finally:
                os._exit(0)
        survived = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        listed = complete(root)
        assert listed
        for step, path in listed.items():
            assert same(load(path)[0], parts_of(step))
        CheckpointFolder(root)
        assert not [name for name in os.listdir(root) if name.startswith(".")]
        if survived:
            assert list(listed) == [2]
            return
    pytest.fail("the operations never ended")
