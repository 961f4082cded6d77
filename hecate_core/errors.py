"""Every error Hecate raises on purpose, with the exit status it means at the command line.

Messages are one line: `place: what is wrong; what would be right`.
"""

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """What a process status of `hecate` means (docs/cli.md prints the same table)."""

    DONE = 0
    FOUND = 1  # a check found something, or runs differ
    WRONG_INPUT = 2  # config, arguments, a name nobody provides
    PLUGIN_FAILED = 3  # a plugin that is needed does not load
    UNREADABLE = 4  # data or checkpoint
    DIVERGED = 5
    OUR_BUG = 70
    INTERRUPTED = 130
    TERMINATED = 143


class HecateError(Exception):
    """Base of all errors meant for a reader; `exit_code` is the status the CLI ends with."""

    exit_code = ExitCode.WRONG_INPUT


class InputError(HecateError, ValueError):
    """A value from outside is wrong: a tensor, an argument, an unknown name."""


class ConfigError(InputError):
    """A config file or an override is wrong; the message starts with `file:line`."""


class CompositionError(InputError):
    """Components that cannot work together, with the reason derived from what they declare."""


class PluginError(HecateError):
    """A plugin that is needed fails to load or breaks a protocol."""

    exit_code = ExitCode.PLUGIN_FAILED


class DataError(HecateError):
    """A data source is missing, truncated or unreadable."""

    exit_code = ExitCode.UNREADABLE


class CheckpointError(HecateError):
    """A checkpoint is missing, damaged or belongs to something else."""

    exit_code = ExitCode.UNREADABLE


class DivergedError(HecateError):
    """A run produced a non-finite number; the message names the step and the quantity."""

    exit_code = ExitCode.DIVERGED


class Terminated(KeyboardInterrupt):
    """SIGTERM asked the run to stop; whoever handles an interrupt handles this."""


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """The tail of a message about an unknown name: `; did you mean "x"?` or the list of what exists."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=cutoff)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known: {', '.join(choices)}" if choices else "; nothing is registered"
