"""Foreign exceptions as one line: what was raised, by whose file, however badly it behaves."""

import sys
import traceback
from pathlib import Path

LIMIT = 240  # characters; a reason stays one line on a terminal


def one_line(text: str) -> str:
    """Text with all white space, line ends included, collapsed, and cut at `LIMIT` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= LIMIT else flat[: LIMIT - 3] + "..."


def told(error: BaseException) -> str:
    """An exception in one line: its type, its text and the innermost file that is not the loader's."""
    if isinstance(error, SystemExit):
        return one_line(f"called sys.exit({_text(error)}){_where(error)}")
    if isinstance(error, SyntaxError):
        line = f"{Path(error.filename or '?').name}:{error.lineno}"
        return one_line(f"{type(error).__name__}: {error.msg} ({line})")
    text = _text(error)
    return one_line(f"{type(error).__name__}{': ' + text if text else ''}{_where(error)}")


def told_in_full(error: BaseException) -> str:
    """The traceback, for `--debug`."""
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except Exception:  # hecate: allow FL-01 -- a stranger's exception may fail to be shown
        return told(error)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # hecate: allow FL-01 -- a stranger's __str__ may raise as well
        return "(its text cannot be shown)"


def _where(error: BaseException) -> str:
    """` (file:line)` of the innermost frame outside this package and the import system."""
    here = str(Path(__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", here)) and not _is_standard(frame.filename)
    ]
    if not frames:
        return ""
    return f" ({Path(frames[-1].filename).parent.name}/{Path(frames[-1].filename).name}:{frames[-1].lineno})"


def _is_standard(filename: str) -> bool:
    return "/importlib/" in filename.replace("\\", "/") and filename.startswith(sys.base_prefix)
