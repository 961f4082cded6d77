"""Writing files: whole or not at all, whatever the disk does."""

import errno
import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hecate_core import files
from hecate_core.errors import ExitCode, InputError
from hecate_core.failing_disk import FailingDisk, Failure

FAILURES: list[tuple[Failure, bool]] = [("ENOSPC", False), ("ENOSPC", True), ("EIO", False), ("EIO", True)]


@pytest.fixture(autouse=True)
def _whole_disk_afterwards() -> Iterator[None]:
    yield
    files.disk = files.Disk()


def failing(at: int, failure: Failure, stays: bool = False) -> FailingDisk:
    files.disk = disk = FailingDisk(at, failure, stays=stays)
    return disk


def heal() -> None:
    files.disk = files.Disk()


def operations(action: Callable[[], object]) -> int:
    """How many operations the action takes when nothing fails."""
    disk = failing(0, "EIO")
    action()
    heal()
    return disk.done


def tree(root: Path) -> dict[str, bytes | None]:
    """Everything under a folder, hidden leftovers included."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize(("failure", "stays"), FAILURES)
def test_a_file_is_old_or_new_whatever_operation_fails(failure: Failure, stays: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    total = operations(lambda: files.write_text(path, "first"))
    assert total == 5  # open, write, fsync, rename, fsync of the folder
    for at in range(1, total + 1):
        files.write_text(path, "old")
        failing(at, failure, stays)
        with pytest.raises(files.StorageError) as caught:
            files.write_text(path, "new")
        heal()
        assert path.read_text() == ("new" if at == total else "old")
        assert caught.value.errno == getattr(errno, failure)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert caught.value.exit_code == ExitCode.UNREADABLE
        files.clean(tmp_path)
        assert os.listdir(tmp_path) == ["a.json"]


def test_short_writes_are_continued(tmp_path: Path) -> None:
    failing(2, "short")
    files.write_bytes(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_short_write_on_a_disk_that_fills_leaves_the_old_file(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "a", b"old")
    failing(2, "short", stays=True)
    with pytest.raises(files.StorageError, match="No space left"):
        files.write_bytes(tmp_path / "a", b"0123456789")
    heal()
    files.clean(tmp_path)
    assert tree(tmp_path) == {"a": b"old"}


def test_a_disk_that_takes_nothing_is_an_error_and_no_loop(tmp_path: Path) -> None:
    class Stuck(files.Disk):
        def write(self, handle: int, content: memoryview) -> int:
            return 0

    files.disk = Stuck()
    with pytest.raises(files.StorageError, match="Input/output"):
        files.write_bytes(tmp_path / "a", b"x")


def fill(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        files.add_file(folder / "one", content)
        files.add_file(folder / "two", content * 2)

    return write


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize(("failure", "stays"), [*FAILURES, ("short", True)])
def test_a_folder_is_whole_or_absent_whatever_operation_fails(
    failure: Failure, stays: bool, replace: bool, tmp_path: Path
) -> None:
    def old() -> dict[str, bytes | None]:
        return {"run": None, "run/one": b"old", "run/two": b"oldold"} if replace else {}

    new = {"run": None, "run/one": b"new", "run/two": b"newnew"}
    total = 40
    for at in range(1, total):
        root = tmp_path / str(at)
        root.mkdir()
        if replace:
            files.publish(root / "run", fill(b"old"))
        disk = failing(at, failure, stays)
        try:
            files.publish(root / "run", fill(b"new"), replace=replace)
            reported = True
        except files.StorageError:
            reported = False
        heal()
        files.clean(root)  # what the next open does
        now = tree(root)
        assert now == new if reported else now in (old(), new)
        if disk.done < at:
            break
    else:
        pytest.fail("the operations never ended")


def test_an_existing_folder_is_not_replaced_unasked(tmp_path: Path) -> None:
    files.publish(tmp_path / "run", fill(b"old"))
    with pytest.raises(files.StorageError, match="File exists"):
        files.publish(tmp_path / "run", fill(b"new"))
    assert tree(tmp_path)["run/one"] == b"old"


def test_an_interrupted_fill_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        files.add_file(folder / "one", b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.publish(tmp_path / "run", interrupted)
    assert tree(tmp_path) == {}


def killed(action: Callable[[], object]) -> bool:
    """Run an action in a child process; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def test_a_process_killed_at_any_operation_leaves_old_or_new_and_no_leftover_after_clean(tmp_path: Path) -> None:
    old: dict[str, bytes | None] = {"run": None, "run/one": b"old", "run/two": b"oldold"}
    new: dict[str, bytes | None] = {"run": None, "run/one": b"new", "run/two": b"newnew"}
    seen = []
    for at in range(1, 40):
        root = tmp_path / str(at)
        root.mkdir()
        files.publish(root / "run", fill(b"old"))

        def action(at: int = at, root: Path = root) -> None:
            failing(at, "kill")
            files.publish(root / "run", fill(b"new"), replace=True)

        if not killed(action):
            break
        files.clean(root)
        assert tree(root) in (old, new)
        seen.append(tree(root) == new)
    else:
        pytest.fail("the operations never ended")
    assert seen == sorted(seen)  # first always the old one, then always the new one
    assert len(seen) == 14
    assert seen.count(True) == 4  # the folder's sync and the removal of the old one


def test_clean_touches_nothing_else(tmp_path: Path) -> None:
    keep = ["run", ".hidden", ".run.new-1", ".run.new-1-xyz", "run.old-1-00000000", ".writer"]
    for name in keep:
        (tmp_path / name).mkdir()
    target = tmp_path / "run" / "target"
    target.write_text("x")
    (tmp_path / ".link.gone-12-0123abcd").symlink_to(tmp_path / "run")
    (tmp_path / ".run.new-12-0123abcd").mkdir()
    assert files.clean(tmp_path) == [".link.gone-12-0123abcd", ".run.new-12-0123abcd"]
    assert sorted(os.listdir(tmp_path)) == sorted(keep)
    assert target.read_text() == "x"  # the link was removed, not what it points to
    assert files.clean(tmp_path / "missing") == []


def test_remove_takes_the_name_first(tmp_path: Path) -> None:
    files.publish(tmp_path / "run", fill(b"x"))
    failing(2, "EIO")  # the first unlink
    with pytest.raises(files.StorageError):
        files.remove(tmp_path / "run")
    heal()
    assert not (tmp_path / "run").exists()
    assert len(files.clean(tmp_path)) == 1
    assert tree(tmp_path) == {}


def test_make_folder_makes_parents_and_reports(tmp_path: Path) -> None:
    assert files.make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert files.make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(files.StorageError):
        files.make_folder(tmp_path / "file" / "c")


@pytest.mark.parametrize(("failure", "stays"), [("ENOSPC", False), ("EIO", False), ("short", True)])
def test_a_line_is_appended_whole_or_not_at_all(failure: Failure, stays: bool, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    files.append_json(path, {"step": 0, "loss": 0.1 + 0.2})
    for at in (1, 2):
        failing(at, failure, stays)
        if failure == "short" and at == 1:
            continue
        if failure == "short":
            # The disk that filled still lets a file be cut, as real ones do.
            files.disk.truncate = files.Disk().truncate  # type: ignore[method-assign]
        with pytest.raises(files.StorageError):
            files.append_json(path, {"step": 1})
        assert path.read_text() == '{"step": 0, "loss": 0.30000000000000004}\n'
    heal()
    files.append_json(path, {"step": 1})
    assert files.read_json_lines(path) == ([{"step": 0, "loss": 0.1 + 0.2}, {"step": 1}], 0)


def test_a_torn_line_is_counted_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1, "lo')
    assert files.read_json_lines(path) == ([{"step": 0}], 1)
    files.append_json(path, {"step": 2})
    assert files.read_json_lines(path) == ([{"step": 0}, {"step": 2}], 1)
    files.write_json_lines(path, [{"step": 0}])
    assert path.read_text() == '{"step": 0}\n'


def test_what_cannot_be_read_is_told_without_a_word_about_writing(tmp_path: Path) -> None:
    with pytest.raises(files.StorageError, match=rf"^{tmp_path}: Is a directory$"):
        files.read_json_lines(tmp_path)


def test_a_line_of_ten_megabytes_and_other_nonsense_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"a": 1}', b"[1]", b"\x00\x80", b"[" * 10_000, b"", b'{"b": 2}']
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert files.read_json_lines(path) == ([{"a": 1}, {"b": 2}], 3)
    path.write_bytes(b'{"a": 1}\n' + b"x" * (10 << 20) + b'\n{"b": 2}\n')
    records, skipped = files.read_json_lines(path)
    assert records == [{"a": 1}, {"b": 2}]
    assert skipped > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"x", object()])
def test_what_json_cannot_hold_is_refused_before_anything_is_written(value: Any, tmp_path: Path) -> None:
    for write in (files.write_json, files.append_json):
        with pytest.raises(InputError, match="JSON"):
            write(tmp_path / "a", {"value": value})
    assert tree(tmp_path) == {}


def test_json_comes_back_equal(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True, "\u00e9\ud800"], "a": {"deep": -0.0}}
    files.write_json(tmp_path / "a.json", value)
    again = json.loads((tmp_path / "a.json").read_text())
    assert again == value
    assert list(again) == ["b", "a"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        files.exclusive(tmp_path),
        pytest.raises(InputError, match="another process writes there"),
        files.exclusive(tmp_path),
    ):
        pytest.fail("two writers")
    with files.exclusive(tmp_path):
        pass
    with pytest.raises(files.StorageError), files.exclusive(tmp_path / "missing"):
        pytest.fail("no folder")


def test_no_handle_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for at in range(1, 11):
        failing(at, "EIO")
        with pytest.raises(files.StorageError):
            files.publish(tmp_path / str(at), fill(b"x"))
        heal()
    assert len(os.listdir("/proc/self/fd")) == before
