"""What a stranger's Python raises, as one line: a pair's own code runs in this process, and may raise anything."""

import contextlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hecate_core.api import HecateError
from hecate_kernels.failure import KernelError
from hecate_kernels.overdue import Overdue, ended_after

LONGEST = 240  # characters of an exception's text
PYTHON_S = 600.0  # seconds that one call of a pair's own code may take, launches not counted


@contextlib.contextmanager
def calling(what: str, wanted: str, pair: Any) -> Iterator[None]:
    """Runs the block as a call of a pair's own code: KernelError with the place for whatever it raises.

    So it is for what takes longer than PYTHON_S, launches not counted. SystemExit is no exception from that, a
    KeyboardInterrupt is: it cannot be told from Ctrl-C. What is printed meanwhile goes to stderr, because stdout is
    the result.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr), ended_after(PYTHON_S):
            yield
    except (KeyboardInterrupt, HecateError):
        raise
    except BaseException as error:
        raise KernelError(f"{place_of(error, pair)}: {what} {raised(error)}; expected {wanted}") from error


def raised(error: BaseException) -> str:
    """An exception in words."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({text_of(error)})"
    if isinstance(error, Overdue):
        return text_of(error)
    return f"raised {type(error).__name__}{': ' * bool(text_of(error))}{text_of(error)}"


def text_of(error: BaseException) -> str:
    """An exception's text in one line, cut where it is long."""
    try:
        flat = " ".join(str(error).split())
    except Exception:  # hecate: allow FL-01 -- a stranger's __str__ may raise as well
        flat = "(its text cannot be shown)"
    return flat if len(flat) <= LONGEST else flat[: LONGEST - 3] + "..."


def place_of(error: BaseException, about: Any) -> str:
    """`file:line` of the innermost frame beside a pair's own file, else its source; `about` may be a place itself."""
    if isinstance(about, str):
        return about
    try:
        file = about if isinstance(about, Path) else Path(inspect.getfile(about if callable(about) else type(about)))
    except (OSError, TypeError):
        return f"{source_of(about)}:1"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno or 1}"
    home = file.resolve().parent
    near = file.resolve() if home.name in ("site-packages", "dist-packages") else home  # others live there too
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        if near in (path, *path.parents) and home != Path(__file__).parent:
            return f"{frame.filename}:{frame.lineno}"
    return f"{file}:1" if isinstance(about, (Path, type)) else f"{source_of(about)}:1"


def source_of(pair: Any) -> str:
    """What a pair declares as its source, as far as it does."""
    try:
        return str(pair.kernels.source)
    except Exception:  # hecate: allow FL-01 -- whatever stands in place of a declaration
        return type(pair).__name__
