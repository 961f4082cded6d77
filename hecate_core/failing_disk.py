"""A disk that fails at its N-th operation: to prove that what was saved before stays whole.

Put one into `hecate_core.files.disk` for the length of a test.
"""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from hecate_core.errors import InputError
from hecate_core.files import Disk

Failure = Literal["ENOSPC", "EIO", "short", "kill"]
Result = TypeVar("Result")


class FailingDisk(Disk):
    """Counts operations from 1 and fails at number `at`; `done` is the count so far, `names` their kinds.

    * "ENOSPC", "EIO" - the operation raises; with `stays` every later one does too, as on a full disk;
    * "short"         - a write takes half of what it was given; with `stays` the next one raises ENOSPC;
    * "kill"          - the process gets SIGKILL after half of a write, before any other operation.
    """

    def __init__(self, at: int, failure: Failure = "ENOSPC", *, stays: bool = False) -> None:
        if failure not in ("ENOSPC", "EIO", "short", "kill"):
            raise InputError(f"failure = {failure!r}; expected ENOSPC, EIO, short or kill")
        self.at, self.failure, self.stays = at, failure, stays
        self.done = 0
        self.names: list[str] = []

    def _do(self, name: str, operation: Callable[[], Result]) -> Result:
        self.done += 1
        self.names.append(name)
        if self.done == self.at or (self.stays and self.done > self.at):
            if self.failure == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.failure != "short" or self.done > self.at:
                number = errno.EIO if self.failure == "EIO" else errno.ENOSPC
                raise OSError(number, os.strerror(number))
        return operation()

    def open(self, path: Path, flags: int) -> int:
        """Counted."""
        return self._do("open", lambda: super(FailingDisk, self).open(path, flags))

    def write(self, handle: int, content: memoryview) -> int:
        """Counted; the one operation that can be done by half."""
        if self.done + 1 == self.at and self.failure in ("short", "kill"):
            half = super().write(handle, content[: len(content) // 2])
            if self.failure == "short" and half:
                return self._do("write", lambda: half)
        return self._do("write", lambda: super(FailingDisk, self).write(handle, content))

    def fsync(self, handle: int) -> None:
        """Counted."""
        self._do("fsync", lambda: super(FailingDisk, self).fsync(handle))

    def truncate(self, handle: int, size: int) -> None:
        """Counted."""
        self._do("truncate", lambda: super(FailingDisk, self).truncate(handle, size))

    def rename(self, old: Path, new: Path) -> None:
        """Counted."""
        self._do("rename", lambda: super(FailingDisk, self).rename(old, new))

    def mkdir(self, path: Path) -> None:
        """Counted."""
        self._do("mkdir", lambda: super(FailingDisk, self).mkdir(path))

    def unlink(self, path: Path) -> None:
        """Counted."""
        self._do("unlink", lambda: super(FailingDisk, self).unlink(path))

    def rmdir(self, path: Path) -> None:
        """Counted."""
        self._do("rmdir", lambda: super(FailingDisk, self).rmdir(path))
