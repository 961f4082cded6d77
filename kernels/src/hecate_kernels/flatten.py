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
_BRANCH = re.compile(r"^\s*#\s*(?:else|elif|endif)\b")
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def flatten(source: Path) -> str:
    """The text of `source` with each `#include "..."` replaced by the file, once.

    Looks beside the including file, then in the device headers. Raises KernelError for a file that
    cannot be read or found, at the line that asks for it.
    """
    parts: list[str] = []
    _append(source.resolve(), parts, set(), f"{source}:1")
    return "\n".join(parts) + "\n"


def digest(*texts: str) -> str:
    """A short name for texts; equal texts, equal name."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _append(file: Path, parts: list[str], seen: set[Path], asked_at: str) -> None:
    seen.add(file)
    try:
        text = _read(file, file.stat().st_mtime_ns)
    except (OSError, UnicodeDecodeError) as error:
        raise KernelError(f"{asked_at}: {file} cannot be read ({error.__class__.__name__})") from error
    parts.append(f'#line 1 "{file}"')
    for number, line in enumerate(text.splitlines(), 1):
        found = _INCLUDE.match(line)
        if found is None:
            parts.append("" if line.strip() == "#pragma once" else line)
            if _BRANCH.match(line):  # directives in what was skipped do not count
                parts.append(f'#line {number + 1} "{file}"')
            continue
        included = _find(found[1], file)
        if included is None:
            raise KernelError(f'{file}:{number}: "{found[1]}" is neither beside this file nor a device header')
        if included not in seen:
            _append(included, parts, seen, f"{file}:{number}")
        parts.append(f'#line {number + 1} "{file}"')


def _find(name: str, file: Path) -> Path | None:
    for folder in (file.parent, DEVICE):
        candidate = (folder / name).resolve()
        if candidate.is_file():
            return candidate
    return None


@lru_cache(maxsize=256)
def _read(file: Path, _changed: int) -> str:
    return file.read_text()
