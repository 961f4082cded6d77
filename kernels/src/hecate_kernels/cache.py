"""Where host builds are kept: whole files under the name of what they are made of, each with a seal beside it."""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hecate_kernels.failure import MachineError

REMEDY = "set HECATE_KERNEL_CACHE to a folder that can be written"
_ROOM = "make room, or set TMPDIR to a folder that can be written"


def cache_folder() -> Path:
    """`$HECATE_KERNEL_CACHE`, else hecate/kernels in the user's cache folder; MachineError where it cannot be made."""
    given = os.environ.get("HECATE_KERNEL_CACHE")
    base = Path(given or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "hecate/kernels")
    try:
        base = base.expanduser().absolute()
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError.of(base, error, REMEDY) from error
    except RuntimeError as error:  # no home folder
        raise MachineError(f"{base}: {error}; {REMEDY}") from error
    return base


@contextlib.contextmanager
def workspace(prefix: str) -> Iterator[Path]:
    """A folder for the time of the block; MachineError where the disk refuses it, or anything written into it."""
    place = "a temporary folder"
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as place:
            yield Path(place)
    except OSError as error:
        raise MachineError.of(place, error, _ROOM) from error


def publish(result: Path, built: Path) -> None:
    """Puts a file and its seal in place whole: several processes may build the same one.

    Raises MachineError where the folder refuses them.
    """
    seal = result.with_name("seal")
    seal.write_text(_seal(built.name, result.read_bytes()))
    for made, place in ((result, built), (seal, _seal_of(built))):
        fresh = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            shutil.copy(made, fresh)
            fresh.replace(place)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise MachineError.of(place, error, REMEDY) from error


def is_whole(built: Path) -> bool:
    """Whether a build is there as it was made under this very name; damaged and foreign ones are never loaded.

    Nothing but a regular file is opened: a pipe in its place would be waited for.
    """
    try:
        found, sealed = built.stat(), _seal_of(built).stat()
        if not (stat.S_ISREG(found.st_mode) and stat.S_ISREG(sealed.st_mode)):
            return False
        return _fits(built, _seal_of(built).read_text(), found.st_mtime_ns, found.st_size)
    except (OSError, UnicodeDecodeError):
        return False


@cache
def _fits(built: Path, seal: str, changed_ns: int, size: int) -> bool:
    """Read once per process and state of the file."""
    return seal == _seal(built.name, built.read_bytes())


def _seal(name: str, content: bytes) -> str:
    return hashlib.sha256(name.encode() + b"\0" + content).hexdigest()


def _seal_of(built: Path) -> Path:
    return built.with_name(f"{built.name}.seal")
