"""From an exception to a line and an exit status; tracebacks for `--debug` and for faults of ours."""

import contextlib
import os
import tempfile
import time
import traceback
from pathlib import Path

from typer.exceptions import Abort, TyperException

from hecate_core.cli.output import tell
from hecate_core.errors import ExitCode, HecateError, Terminated, nearest
from hecate_core.files import write_text
from hecate_core.registry.blame import blamed
from hecate_core.registry.oneline import told


def report(error: BaseException, *, debug: bool) -> int:
    """Say in one line what happened and return the exit status for it."""
    if debug and not isinstance(error, TyperException):
        tell("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, HecateError):
        tell(" ".join(str(error).split()))
        return error.exit_code
    if isinstance(error, Terminated):
        tell("hecate: terminated")
        return ExitCode.TERMINATED
    if isinstance(error, (KeyboardInterrupt, Abort)):
        tell("hecate: interrupted")
        return ExitCode.INTERRUPTED
    if isinstance(error, TyperException):
        tell(_usage(error))
        return ExitCode.WRONG_INPUT
    if _no_room(error):
        tell(f"hecate: does not fit into memory: {told(error)}; expected a smaller width, window, length or batch")
        return ExitCode.WRONG_INPUT
    if (culprit := blamed(error)) is not None:
        tell(f"{culprit} failed: {told(error)}{_kept(error)}")
        return ExitCode.PLUGIN_FAILED
    tell(f"hecate: a fault of ours: {told(error)}{_kept(error)}")
    return ExitCode.OUR_BUG


def _usage(error: TyperException) -> str:
    """A wrong command line in one line, with the command's name and the nearest option."""
    context = getattr(error, "ctx", None)
    place = getattr(context, "command_path", "hecate")
    option = getattr(error, "option_name", None)
    if option and type(error).__name__ == "NoSuchOption":
        known = [name for one in context.command.get_params(context) for name in one.opts] if context else []
        return f'{place}: no option "{option}"{nearest(option, known)}'
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{place}: {message}; see {place} --help"


def _no_room(error: BaseException) -> bool:
    """Whether memory was refused; torch has no type for it on the CPU, and its GPU type is not imported here."""
    words = ("can't allocate memory", "Storage size calculation overflowed", "Invalid negative dimension")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(one in str(error) for one in words))
    )


def _kept(error: BaseException) -> str:
    """Where the traceback was written, as the end of a line."""
    path = Path(tempfile.gettempdir()) / f"hecate-fault-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    with contextlib.suppress(HecateError):
        write_text(path, "".join(traceback.format_exception(error)))
        return f"; the traceback is in {path}, please report it"
    return "; the traceback could not be written, --debug shows it"
