"""The `[tool.hecate.lint]` table of the nearest pyproject.toml; unknown keys are errors with the nearest name."""

import fnmatch
import os
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, get_args

from hecate_lint.model import Confidence, LintError, Severity

_EXCLUDED = (".git", ".venv", "venv", "__pycache__", "build", "dist", "node_modules", "*.egg-info", ".*_cache")


@dataclass(frozen=True)
class PathSetting:
    """Rules that some paths are excused from, with the reason."""

    paths: tuple[str, ...]
    ignore: tuple[str, ...]
    reason: str

    def covers(self, path: str) -> bool:
        """Whether a path, relative to the root, matches one of the globs."""
        return any(fnmatch.fnmatchcase(path, glob) for glob in self.paths)


@dataclass(frozen=True)
class Pair:
    """Two lists in the code that must name the same things (DX-03): `file.py:NAME` each."""

    left: str
    right: str
    reason: str = ""


@dataclass(frozen=True)
class Settings:
    """What one run is told; paths are relative to `root`."""

    root: str = "."
    file: str = ""  # where it was read, empty when there was no table
    select: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    confidence: Confidence = "likely"
    time_limit_s: float = 4.0  # CPU seconds for one file
    specs: tuple[str, ...] = ("specs",)
    algorithmic: tuple[str, ...] = ()
    bibliography: str = ""
    documents: tuple[str, ...] = ("README.md", "docs")
    same: tuple[Pair, ...] = ()
    per_path: tuple[PathSetting, ...] = ()
    severity: dict[str, Severity] = field(default_factory=dict)

    def excluded(self, path: str) -> bool:
        """Whether a path, relative to the root, or one of its folders is excluded; by default by its last name only."""
        last = path.rsplit("/", 1)[-1]
        if any(fnmatch.fnmatchcase(last, glob) for glob in _EXCLUDED):
            return True
        return any(
            fnmatch.fnmatchcase(path, glob) or any(fnmatch.fnmatchcase(part, glob) for part in path.split("/"))
            for glob in self.exclude
        )

    @cached_property
    def listed(self) -> str | None:
        """The text of the bibliography; None where none is named, or it is not there."""
        if not self.bibliography:
            return None
        try:
            with open(os.path.join(self.root, self.bibliography), encoding="utf-8") as stream:
                return stream.read()
        except OSError:
            return None

    def shown(self) -> dict[str, Any]:
        """Plain values for --show-settings."""
        return asdict(self)


def nearest(word: str, words: Iterable[str]) -> str:
    """The tail of a message about an unknown word."""
    import difflib

    close = difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.5)
    return f'; did you mean "{close[0]}"?' if close else ""


def find(start: str) -> str:
    """The nearest pyproject.toml with a `[tool.hecate.lint]` table at or above a folder; empty for none."""
    folder = os.path.abspath(start)
    if not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    while True:
        candidate = os.path.join(folder, "pyproject.toml")
        if os.path.isfile(candidate):
            try:
                with open(candidate, "rb") as stream:
                    if b"hecate.lint" in stream.read():
                        return candidate
            except OSError as error:
                raise LintError(f"{candidate}: cannot be read: {error.strerror}") from error
        above = os.path.dirname(folder)
        if above == folder:
            return ""
        folder = above


def load(path: str, root: str = "") -> Settings:
    """The settings of a pyproject.toml; defaults for an empty path."""
    if not path:
        return Settings(root=root or os.getcwd())
    try:
        with open(path, "rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise LintError(f"{path}: cannot be read: {error.strerror}; expected a pyproject.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LintError(f"{path}: not valid TOML: {error}") from error
    table = document.get("tool", {}).get("hecate", {}).get("lint", {})
    return _settings(path, table)


def _settings(path: str, table: Any) -> Settings:
    if not isinstance(table, dict):
        raise LintError(f"{path}: tool.hecate.lint is not a table; `[tool.hecate.lint]` would be right")
    values: dict[str, Any] = {"root": os.path.dirname(os.path.abspath(path)), "file": path}
    for key, value in table.items():
        at = f"{path}: tool.hecate.lint.{key}"
        name = key.replace("-", "_")
        if name not in _READERS:
            known = [reader.replace("_", "-") for reader in _READERS]
            raise LintError(f'{path}: unknown key "{key}" in tool.hecate.lint{nearest(key, known)}')
        values[name] = _READERS[name](at, value)
    return Settings(**values)


def _confidence(at: str, value: Any) -> Any:
    if value not in get_args(Confidence):
        raise LintError(f"{at} = {value!r}; expected one of {', '.join(get_args(Confidence))}")
    return value


def _seconds(at: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 3600:
        raise LintError(f"{at} = {value!r}; expected seconds above 0")
    return float(value)


def _text(at: str, value: Any) -> str:
    if not isinstance(value, str):
        raise LintError(f"{at} = {value!r}; expected a string")
    return value


def _list(at: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise LintError(f"{at} = {value!r}; expected a list")
    return value


def _strings(at: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise LintError(f"{at} = {value!r}; expected a list of strings")
    return tuple(value)


def _per_path(at: str, item: Any) -> PathSetting:
    if not isinstance(item, dict):
        raise LintError(f"{at}: expected a table with paths, ignore and reason")
    for key in item:
        if key not in ("paths", "ignore", "reason"):
            raise LintError(f'{at}: unknown key "{key}"{nearest(key, ["paths", "ignore", "reason"])}')
    reason = item.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        raise LintError(f"{at}: no reason; a path is excused only with one")
    return PathSetting(_strings(f"{at}.paths", item.get("paths")), _strings(f"{at}.ignore", item.get("ignore")), reason)


def _pair(at: str, item: Any) -> Pair:
    if not isinstance(item, dict) or set(item) - {"left", "right", "reason"} or not {"left", "right"} <= set(item):
        raise LintError(f"{at}: expected a table with left, right and reason, each `path.py:NAME`")
    return Pair(str(item["left"]), str(item["right"]), str(item.get("reason", "")))


def _severity(at: str, value: Any) -> dict[str, Severity]:
    if not isinstance(value, dict):
        raise LintError(f"{at} = {value!r}; expected a table of rule id to severity")
    for rule, word in value.items():
        if word not in get_args(Severity):
            raise LintError(f"{at}.{rule} = {word!r}; expected one of {', '.join(get_args(Severity))}")
    return dict(value)


def _settings_of_paths(at: str, value: Any) -> tuple[PathSetting, ...]:
    return tuple(_per_path(f"{at}[{number}]", item) for number, item in enumerate(_list(at, value)))


def _pairs(at: str, value: Any) -> tuple[Pair, ...]:
    return tuple(_pair(f"{at}[{number}]", item) for number, item in enumerate(_list(at, value)))


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "select": _strings,
    "extend_select": _strings,
    "ignore": _strings,
    "exclude": _strings,
    "confidence": _confidence,
    "time_limit_s": _seconds,
    "specs": _strings,
    "algorithmic": _strings,
    "bibliography": _text,
    "documents": _strings,
    "same": _pairs,
    "per_path": _settings_of_paths,
    "severity": _severity,
}
