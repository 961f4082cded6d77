"""A kernel's source with its quoted includes inlined: the text is then the whole truth about it.

Line directives keep every compiler message at the `file:line` the author wrote. The text is what the
program caches are keyed by, so a change in a device header changes the key.
"""

import hashlib
import re
from pathlib import Path

from hecate_kernels.failure import KernelError

DEVICE = Path(__file__).parent / "device"
RUNNER = Path(__file__).parent / "runner"
_ONCE = re.compile(r"^\s*#\s*pragma\s+once\s*$", re.MULTILINE)
DEEPEST = 30  # files inside files
LONGEST = 8 << 20  # characters
_BRANCH = re.compile(r"^\s*#\s*(?:else|elif|endif)\b")
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def flatten(source: Path) -> str:
    """The text of `source` with each `#include "..."` replaced by the file.

    Looks beside the including file, then in the device headers. `#pragma once` becomes a guard, so that an
    include in a branch that is skipped does not use it up. Raises KernelError for a file that cannot be read
    or found or that includes itself, at the line that asks for it.
    """
    parts: list[str] = []
    _append(source.resolve(), parts, (), f"{source}:1")
    return "\n".join(parts) + "\n"


def digest(*texts: str) -> str:
    """A short name for texts; equal texts, equal name."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _append(file: Path, parts: list[str], inside: tuple[Path, ...], asked_at: str) -> None:
    """One file and what it includes; `inside` are the files around it."""
    if len(inside) > DEEPEST or sum(map(len, parts)) > LONGEST:
        raise KernelError(f"{asked_at}: includes go round in a circle or grow without end at {file.name}")
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise KernelError(f"{asked_at}: {file} cannot be read ({error.__class__.__name__})") from error
    guard = f"HECATE_ONCE_{digest(str(file))}" if _ONCE.search(text) else None
    if guard:
        parts += [f"#ifndef {guard}", f"#define {guard}"]
    parts.append(f'#line 1 "{file}"')
    for number, line in enumerate(text.splitlines(), 1):
        found = _INCLUDE.match(line)
        if found is None:
            parts.append("" if _ONCE.match(line) else line)
            if _BRANCH.match(line):  # directives in what was skipped do not count
                parts.append(f'#line {number + 1} "{file}"')
            continue
        included = _find(found[1], file)
        if included is None:
            raise KernelError(f'{file}:{number}: "{found[1]}" is neither beside this file nor a device header')
        if guard is None or included not in inside:
            _append(included, parts, (*inside, file), f"{file}:{number}")
        parts.append(f'#line {number + 1} "{file}"')
    if guard:
        parts.append("#endif")


def _find(name: str, file: Path) -> Path | None:
    for folder in (file.parent, DEVICE):
        candidate = (folder / name).resolve()
        if candidate.is_file():
            return candidate
    return None
