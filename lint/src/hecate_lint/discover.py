"""Which files a run looks at: Python files below the given paths, each once, in a fixed order."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hecate_lint.model import LintError
from hecate_lint.settings import Settings


@dataclass
class Discovered:
    """Files to lint (paths as they are reported) and paths that cannot be, with the reason."""

    files: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def discover(paths: Iterable[str], settings: Settings) -> Discovered:
    """Walk the paths; a path that does not exist is an error, one that cannot be read is a line."""
    found = Discovered()
    seen: set[str] = set()
    for path in paths:
        if not os.path.lexists(path):
            raise LintError(f"{path}: no such file or folder")
        for file in _below(path, settings, found):
            key = os.path.realpath(file)
            if key not in seen:
                seen.add(key)
                found.files.append(file)
    found.files.sort()
    found.refused.sort()
    return found


def shown(path: str) -> str:
    """How a path is written in reports: relative to the working folder where it is below it, with `/`."""
    try:
        relative = os.path.relpath(path)
    except (ValueError, OSError):
        relative = path
    text = path if relative.startswith("..") else relative
    return text.replace(os.sep, "/").encode("utf-8", "backslashreplace").decode("utf-8")


def rooted(path: str, root: str) -> str:
    """A path relative to the root of the settings, with `/`, for globs."""
    try:
        return os.path.relpath(path, root).replace(os.sep, "/")
    except (ValueError, OSError):
        return path


def _below(path: str, settings: Settings, found: Discovered) -> Iterator[str]:
    if not os.path.isdir(path):
        reason = _refusal(path)
        if reason:
            found.refused.append((path, reason))
        else:
            yield path
        return

    def failed(error: OSError) -> None:
        found.refused.append((str(error.filename), f"cannot be listed: {error.strerror}"))

    for folder, folders, files in os.walk(path, onerror=failed):
        folders[:] = sorted(f for f in folders if not settings.excluded(rooted(os.path.join(folder, f), settings.root)))
        for name in sorted(files):
            whole = os.path.join(folder, name)
            if name.endswith((".py", ".pyi")) and not settings.excluded(rooted(whole, settings.root)):
                reason = _refusal(whole)
                if reason:
                    found.refused.append((whole, reason))
                else:
                    yield whole


def _refusal(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if stat.S_ISREG(mode):
        return "" if os.access(path, os.R_OK) else "cannot be read: no permission"
    kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "no regular file"
    return f"cannot be read: {kind}"
