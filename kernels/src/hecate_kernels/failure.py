"""Errors of the kernel tools: always one line, `where: what is wrong; what would be right`."""

import errno
import os
import re
from pathlib import Path

from hecate_core.api import ExitCode, HecateError, InputError

ENTRIES = "generated entries"  # where a build names the kernel that was asked for


class KernelError(HecateError):
    """A kernel does not compile, breaks a rule of CUDA or computes the wrong thing."""


class BackendMissingError(InputError):
    """A backend was asked for that this machine cannot run; says what is missing."""


class BrokenPairError(HecateError):
    """What should be a pair cannot be loaded or made, so that nothing of it is checked."""

    exit_code = ExitCode.PLUGIN_FAILED


class MachineError(HecateError):
    """The disk, or the system, refuses what the tools themselves need; says nothing about any kernel."""

    exit_code = ExitCode.UNREADABLE

    @classmethod
    def of(cls, place: object, error: OSError, remedy: str) -> "MachineError":
        """The system's reason in one line, with what would be right."""
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            reason = "it is no folder"
        if error.errno == errno.EFBIG:
            remedy = "raise the limit on files (ulimit -f)"
        return cls(f"{place}: {reason}; {remedy}")


_GCC = re.compile(r"^(?P<file>.+?):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$", re.MULTILINE)
_NVRTC = re.compile(r"^(?P<file>.+?)\((?P<line>\d+)\): (?:catastrophic )?error:? ?(?P<text>.*)$", re.MULTILINE)
_FRAME = re.compile(r"#\d+ (?:0x[0-9a-f]+ in )?(?P<where>\S+).*? (?P<file>/[^\n]+?):(?P<line>\d+)(?=[:\s]|$)")
_UNPLACED = re.compile(r"^.*\b(?:error|fatal)\b.*$", re.MULTILINE)
_SUMMARY = re.compile(r"ERROR_COMPILATION|aborted due to errors|errors? detected in the compilation")
_REFUSED = re.compile(
    r"^(?!.*#error).*(No space left on device|File too large|File size limit exceeded|Read-only file system"
    r"|Disk quota exceeded)",
    re.MULTILINE,
)
_MISALIGNED = re.compile(
    r"^(?P<file>[^\n]+?):(?P<line>\d+):(?:\d+:)? runtime error: (?P<text>.*misaligned.*)$", re.MULTILINE
)
_ADDRESS = re.compile(r" 0x[0-9a-f]+(?= for type)")
_LACKING = re.compile(
    r"^.*(?:cannot find (?:-l|lib)(?:asan|tsan|ubsan|stdc\+\+)|cannot execute|cannot find 'ld'"
    r"|installation problem).*$",
    re.MULTILINE,
)


def compiler_line(log: str, source: Path, compiler: str) -> str:
    """The first error of a compiler's output as one line `file:line: text (compiler)`.

    An error without a place, such as the assembler's or the linker's, is told at line 1 of the source.
    """
    for pattern in (_GCC, _NVRTC):
        errors = [one for one in pattern.finditer(log) if one["file"] != ENTRIES]
        own = [one for one in errors if Path(one["file"]).name == source.name]
        if found := next(iter(own or errors), None):
            return f"{Path(found['file'])}:{found['line']}: {found['text'].strip()} ({compiler})"
    if undefined := re.search(r"undefined reference to `([^']*)'", log):
        return f'{source}:1: "{undefined[1]}" is declared but nowhere defined ({compiler})'
    if missing := re.search(rf"^{ENTRIES}:.*? error: '([^']*)' was not declared", log, re.MULTILINE):
        return (
            f'{source}:1: no kernel "{missing[1]}"; expected extern "C" __global__ void {missing[1]}(...) ({compiler})'
        )
    told = [line[0] for line in _UNPLACED.finditer(log) if not _SUMMARY.search(line[0])]
    first = next((" ".join(line.split()) for line in [*told, *log.splitlines()] if line.strip()), "no message")
    return f"{source}:1: {first} ({compiler})"


def refusal(log: str) -> str | None:
    """The words with which a tool says that the disk refused, if it does."""
    found = _REFUSED.search(log)
    return found[1] if found else None


def lacking_part(log: str) -> str | None:
    """The line with which a compiler says that a part of itself is not installed, if it does."""
    found = None if _GCC.search(log) else _LACKING.search(log)
    return " ".join(found[0].split()) if found else None


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
