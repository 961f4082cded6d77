"""Errors of the kernel tools: always one line, `file:line: what is wrong`."""

import re
from pathlib import Path

from hecate_core.api import HecateError, InputError

__all__ = ["BackendMissingError", "KernelError", "compiler_line", "sanitizer_line"]


class KernelError(HecateError):
    """A kernel does not compile, breaks a rule of CUDA or computes the wrong thing."""


class BackendMissingError(InputError):
    """A backend was asked for that this machine cannot run; says what is missing."""


_GCC = re.compile(r"^(?P<file>[^\s:]+):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$", re.MULTILINE)
_NVRTC = re.compile(r"^(?P<file>[^\s(]+)\((?P<line>\d+)\): (?:catastrophic )?error:? ?(?P<text>.*)$", re.MULTILINE)
_FRAME = re.compile(r"#\d+ (?:0x[0-9a-f]+ in )?(?P<where>\S+).*? (?P<file>/[^\s:]+):(?P<line>\d+)")
_MISALIGNED = re.compile(
    r"^(?P<file>[^\s:]+):(?P<line>\d+):(?:\d+:)? runtime error: (?P<text>.*misaligned.*)$", re.MULTILINE
)
_ADDRESS = re.compile(r" 0x[0-9a-f]+(?= for type)")


def compiler_line(log: str, source: Path, compiler: str) -> str:
    """The first error of a compiler's output as one line `file:line: text (compiler)`."""
    for pattern in (_GCC, _NVRTC):
        errors = list(pattern.finditer(log))
        own = [one for one in errors if Path(one["file"]).name == source.name]
        if found := next(iter(own or errors), None):
            return f"{Path(found['file'])}:{found['line']}: {found['text'].strip()} ({compiler})"
    undefined = re.search(r"undefined reference to `([^']*)'", log)
    if undefined:
        return f'{source}:1: "{undefined[1]}" is declared but nowhere defined ({compiler})'
    first = next((line.strip() for line in log.splitlines() if line.strip()), "no message")
    return f"{source}:1: {first} ({compiler})"


def sanitizer_line(log: str, source: Path) -> str | None:
    """The first report of a sanitizer as one line, or None if there is none.

    Names the innermost line of the kernel itself, and for a race the line of the other access.
    """
    if misaligned := _MISALIGNED.search(log):
        return f"{misaligned['file']}:{misaligned['line']}: {_ADDRESS.sub('', misaligned['text'])}"
    found = re.search(r"(?:ERROR|WARNING): (?:Address|Thread)Sanitizer: ([^\n(]*)", log)
    if not found:
        return None
    what = found[1].strip().removesuffix(" on address").split(" on unknown")[0]
    what = re.sub(r" on address 0x[0-9a-f]+.*", "", what)
    stacks = re.split(r"\n\s*\n", log[found.start() :])
    lines = [place for stack in stacks[:3] if (place := _kernel_line(stack, source))]
    if not lines:
        return f"{source}:1: {what}"
    other = f" with line {lines[1][1]}" if "race" in what and len(lines) > 1 else ""
    return f"{lines[0][0]}:{lines[0][1]}: {what}{other}"


def _kernel_line(stack: str, source: Path) -> tuple[str, str] | None:
    """The innermost frame in the source, else in a device header, else none."""
    frames = [(m["file"], m["line"]) for m in _FRAME.finditer(stack)]
    own = [frame for frame in frames if Path(frame[0]).name == source.name]
    device = [frame for frame in frames if frame[0].endswith(".cuh")]
    found = own or device
    return found[0] if found else None
