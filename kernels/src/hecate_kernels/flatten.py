"""A kernel's source with its quoted includes inlined: the text is then the whole truth about it.

Line directives keep every compiler message at the `file:line` the author wrote. The text is what the
program caches are keyed by, so a change in a device header changes the key.
"""

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from hecate_kernels.failure import KernelError

DEVICE = Path(__file__).parent / "device"
RUNNER = Path(__file__).parent / "runner"
_ONCE = re.compile(r"^\s*#\s*pragma\s+once\s*$", re.MULTILINE)
DEEPEST = 30  # files inside files
LONGEST = 8 << 20  # characters
_BRANCH = re.compile(r"^\s*#\s*(?:else|elif|endif)\b")
_INCLUDE = re.compile(r'^\s*(?P<sign>#)\s*include\s*"(?P<name>[^"]+)"')
_SPELLED = re.compile(  # what may hold the signs of another: strings, characters, comments
    r"""R"(?P<raw>[^()\\\s]{0,16})\(.*?\)(?P=raw)"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|//(?:\\\n|[^\n])*|/\*.*?(?:\*/|\Z)""",
    re.DOTALL,
)


def flatten(source: Path) -> str:
    """The text of `source` with each `#include "..."` replaced by the file.

    Looks beside the including file, then in the device headers. `#pragma once` becomes a guard, so that an
    include in a branch that is skipped does not use it up. What is in a comment is no directive. A file that is
    not there is an error of the compiler, so that a branch which is skipped may name it. Raises KernelError for
    a file that cannot be read or that includes itself, at the line that asks for it.
    """
    parts: list[str] = []
    _append(source.resolve(), parts, (), f"{source}:1")
    return "\n".join(parts) + "\n"


def digest(*texts: str) -> str:
    """A short name for texts; equal texts, equal name."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


@lru_cache(maxsize=256)  # the device headers come back with every build
def without_comments(text: str) -> str:
    """The same text with comments and raw strings as blanks: no directive stands in one; lines and columns stay."""

    def blank(found: re.Match[str]) -> str:
        word = found[0]
        return re.sub(r"[^\n]", " ", word) if word.startswith(("//", "/*", "R")) else word

    return _SPELLED.sub(blank, text)


def text_of(file: Path) -> str:
    """What a source file says; KernelError, which names the file alone, for what is no readable text of its size."""
    try:
        if not file.is_file():  # a pipe would be waited for
            raise KernelError(f"{file} cannot be read (no regular file); expected CUDA source")
        if file.stat().st_size > LONGEST:
            raise KernelError(f"{file} cannot be read (more than {LONGEST >> 20} MiB); expected CUDA source")
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise KernelError(f"{file} cannot be read ({why}); expected CUDA source") from error


def _append(file: Path, parts: list[str], inside: tuple[Path, ...], asked_at: str) -> None:
    """One file and what it includes; `inside` are the files around it."""
    if len(inside) > DEEPEST or sum(map(len, parts)) > LONGEST:
        raise KernelError(f"{asked_at}: includes go round in a circle or grow without end at {file.name}")
    try:
        text = text_of(file)
    except KernelError as unreadable:
        raise KernelError(f"{asked_at}: {unreadable}") from unreadable
    bare = without_comments(text)
    guard = f"HECATE_ONCE_{digest(str(file))}" if _ONCE.search(bare) else None
    if guard:
        parts += [f"#ifndef {guard}", f"#define {guard}"]
    named = str(file).replace("\\", "\\\\").replace('"', '\\"')
    parts.append(f'#line 1 "{named}"')
    for number, (line, code) in enumerate(zip(text.split("\n"), bare.split("\n"), strict=True), 1):
        found = _INCLUDE.match(code)
        if found is None:
            parts.append("" if _ONCE.match(code) else line)
            if _BRANCH.match(code):  # directives in what was skipped do not count
                parts.append(f'#line {number + 1} "{named}"')
            continue
        parts.append(line[: found.start("sign")])  # a comment may end before the directive, and begin behind it
        included = _find(found["name"], file)
        if included is None:
            parts.append(f'#line {number} "{named}"')
            parts.append(f'#error "{found["name"]}" is neither beside this file nor a device header')
        elif guard is None or included not in inside:
            _append(included, parts, (*inside, file), f"{file}:{number}")
        parts.append(f'#line {number} "{named}"')
        parts.append(line[found.end() :])
    if guard:
        parts.append("#endif")


def _find(name: str, file: Path) -> Path | None:
    for folder in (file.parent, DEVICE):
        candidate = (folder / name).resolve()
        if candidate.is_file():
            return candidate
    return None
