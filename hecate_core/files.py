"""The only module that writes files: whole or not at all, and on the disk when a call returns.

A file or folder is made under a hidden name beside its place, synced, renamed into place, and the
folder around it synced. What a killed process leaves behind has a name that `clean` knows.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hecate_core.errors import ExitCode, HecateError, InputError
from hecate_core.limits import JSON_LINE_BYTES

_LEFT_OVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>new|old|gone)-\d+-[0-9a-f]{8}")
_BLOCK = 1 << 26  # bytes per write call; Linux takes at most 2 GiB at once


class StorageError(HecateError):
    """The disk refused: one line with the place and the system's reason; `errno` is its number."""

    exit_code = ExitCode.UNREADABLE

    def __init__(self, place: object, error: OSError, *, writing: bool = True) -> None:
        reason = os.strerror(error.errno) if error.errno else str(error)
        super().__init__(f"{place}: {reason}" + "; what was there before is intact" * writing)
        self.errno = error.errno


class Disk:
    """The operations that can fail, one method each; a test puts a failing disk in `files.disk`."""

    def open(self, path: Path, flags: int) -> int:
        """A handle of a new or existing file."""
        return os.open(path, flags | os.O_CLOEXEC, 0o644)

    def write(self, handle: int, content: memoryview) -> int:
        """How many bytes were taken, as `os.write`."""
        return os.write(handle, content)

    def fsync(self, handle: int) -> None:
        """Return when the content is on the disk."""
        os.fsync(handle)

    def truncate(self, handle: int, size: int) -> None:
        """Cut an open file."""
        os.ftruncate(handle, size)

    def rename(self, old: Path, new: Path) -> None:
        """Give `new` to what was `old`, at once; a file at `new` is replaced."""
        os.rename(old, new)

    def mkdir(self, path: Path) -> None:
        """Make one folder."""
        os.mkdir(path)

    def unlink(self, path: Path) -> None:
        """Remove a file or a link."""
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""
        os.rmdir(path)


disk = Disk()


def write_bytes(path: Path | str, content: bytes | bytearray | memoryview) -> None:
    """Put `content` at `path`, replacing what is there; on failure the old file is untouched.

    Raises StorageError. The folder must exist.
    """
    path = Path(path)
    with _reported(path):
        made = _beside(path, "new")
        try:
            _write_new(made, content)
            disk.rename(made, path)
        except BaseException:
            _discard(made)
            raise
        _sync_folder(path.parent)


def write_text(path: Path | str, text: str) -> None:
    """`write_bytes` of the text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: object) -> None:
    """`write_bytes` of one JSON document, indented; InputError for what JSON cannot hold exactly."""
    write_text(path, to_json(value, indent=1) + "\n")


def to_json(value: object, indent: int | None = None) -> str:
    """JSON in ASCII, keys in their order; raises InputError for NaN, infinity and foreign types."""
    try:
        return json.dumps(value, allow_nan=False, indent=indent)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"JSON: {error}; expected finite numbers, text, lists and mappings") from error


def make_folder(path: Path | str) -> Path:
    """The folder at `path`, made with its parents where missing; raises StorageError."""
    path = Path(path)
    with _reported(path):
        missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
        for folder in reversed(missing):
            disk.mkdir(folder)
            _sync_folder(folder.parent)
    return path


def append_json(path: Path | str, record: object) -> None:
    """Add one line of JSON to a file of lines; after a failure the file is as before.

    Not synced: a line more or less after a power cut is no loss. Raises StorageError.
    """
    path, line = Path(path), (to_json(record) + "\n").encode()
    if len(line) > JSON_LINE_BYTES:
        raise InputError(f"{path}: a line of {len(line)} bytes; expected at most {JSON_LINE_BYTES}")
    with _reported(path):
        handle = disk.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            try:
                _write_all(handle, (b"\n" if torn else b"") + line)
            except BaseException:
                with contextlib.suppress(OSError):
                    disk.truncate(handle, size)
                raise
        finally:
            os.close(handle)


def append_bytes(path: Path | str, content: bytes) -> None:
    """Add to the end of a file, made with its folder where missing; after a failure the file is as before.

    Not synced. Raises StorageError.
    """
    path = Path(path)
    make_folder(path.parent)
    with _reported(path):
        handle = disk.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(handle).st_size
            try:
                _write_all(handle, content)
            except BaseException:
                with contextlib.suppress(OSError):
                    disk.truncate(handle, size)
                raise
        finally:
            os.close(handle)


def read_json_lines(path: Path | str) -> tuple[list[dict[str, Any]], int]:
    """The records of a file of lines, and how many lines were no JSON object (a torn last line is one)."""
    records, skipped = [], 0
    try:
        with open(path, "rb") as file:
            while line := file.readline(JSON_LINE_BYTES + 1):
                try:
                    record = json.loads(line) if line.endswith(b"\n") else None
                except (ValueError, RecursionError):
                    record = None
                if isinstance(record, dict):
                    records.append(record)
                elif line.strip():
                    skipped += 1
    except OSError as error:
        raise StorageError(path, error, writing=False) from error
    return records, skipped


def write_json_lines(path: Path | str, records: Iterable[object]) -> None:
    """`write_bytes` of a file of lines, one per record."""
    write_text(path, "".join(to_json(record) + "\n" for record in records))


def publish(folder: Path | str, fill: Callable[[Path], None], *, replace: bool = False) -> Path:
    """Make a folder whole: `fill` writes into a hidden one, which then takes the name `folder`.

    Files must be written by `add_file` or otherwise synced. On failure nothing appears at `folder`.
    With `replace` an existing folder stands until the new one is complete. Raises StorageError.
    """
    folder = Path(folder)
    with _reported(folder):
        if not replace and os.path.lexists(folder):
            raise FileExistsError(errno.EEXIST, "exists")
        made, old = _beside(folder, "new"), _beside(folder, "old")
        try:
            disk.mkdir(made)
            fill(made)
            _sync_folder(made)
            if os.path.lexists(folder):
                disk.rename(folder, old)
            disk.rename(made, folder)
        except BaseException:
            _discard(made)
            if os.path.lexists(old) and not os.path.lexists(folder):
                with contextlib.suppress(OSError):
                    disk.rename(old, folder)
            raise
        _sync_folder(folder.parent)
    _discard(old)
    return folder


def add_file(path: Path, content: bytes | bytearray | memoryview) -> None:
    """A new file with `content`, synced; for the inside of `publish`."""
    with _reported(path):
        _write_new(path, content)


def remove(path: Path | str) -> None:
    """Remove a file or a folder with all it holds: first its name at once, then its content.

    Raises StorageError; what is left then has a name that `clean` knows. Links are not followed.
    """
    path = Path(path)
    with _reported(path):
        gone = _beside(path, "gone")
        disk.rename(path, gone)
        _delete(gone)


def clean(root: Path | str) -> list[str]:
    """Remove what killed processes left in `root`, and put back a folder whose replacement never came.

    Returns the names that were dealt with. Only the one writer of `root` may call this. What the disk
    refuses to remove stays for the next time.
    """
    root, found = Path(root), []
    for name in sorted(os.listdir(root)) if root.is_dir() else []:
        match = _LEFT_OVER.fullmatch(name)
        if match is None:
            continue
        place = root / match["name"]
        with contextlib.suppress(OSError):
            if match["kind"] == "old" and not os.path.lexists(place):
                disk.rename(root / name, place)
            else:
                _delete(root / name)
            found.append(name)
    return found


@contextlib.contextmanager
def exclusive(folder: Path | str) -> Iterator[None]:
    """Be the one writer of `folder` while the body runs; the system lets go of a killed process's lock.

    Raises InputError when another process holds it.
    """
    path = Path(folder) / ".writer"
    with _reported(path):
        handle = disk.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another process writes there; expected to be alone") from None
        yield
    finally:
        os.close(handle)


def _beside(path: Path, kind: str) -> Path:
    return path.parent / f".{path.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def _reported(place: Path) -> Iterator[None]:
    """A system's error in the body becomes one line that names the place."""
    try:
        yield
    except OSError as error:
        raise StorageError(place, error) from error


def _write_new(path: Path, content: bytes | bytearray | memoryview) -> None:
    handle = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        _write_all(handle, content)
        disk.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, content: bytes | bytearray | memoryview) -> None:
    """All of it, in as many calls as the system wants."""
    for block in _blocks(memoryview(content).cast("B")):
        done = 0
        while done < len(block):
            taken = disk.write(handle, block[done:])
            if taken <= 0:
                raise OSError(errno.EIO, "nothing was written")
            done += taken


def _blocks(content: memoryview) -> Iterable[memoryview]:
    return (content[start : start + _BLOCK] for start in range(0, len(content), _BLOCK))


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder last; a file system that cannot sync folders is left alone."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        disk.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def _delete(path: Path) -> None:
    """A file, a link, or a folder with its content."""
    if path.is_dir() and not path.is_symlink():
        for name in sorted(os.listdir(path)):
            _delete(path / name)
        disk.rmdir(path)
    else:
        disk.unlink(path)


def _discard(path: Path) -> None:
    """Remove a leftover if the disk allows; otherwise `clean` will."""
    if os.path.lexists(path):
        with contextlib.suppress(OSError):
            _delete(path)
