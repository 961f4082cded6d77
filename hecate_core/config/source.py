"""Where a config comes from, so that every complaint can name the line."""

import json
import re
import tomllib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

from attrs import define, field

from hecate_core.config.lines import Path, key_lines
from hecate_core.errors import ConfigError
from hecate_core.limits import CONFIG_BYTES

_AT_LINE = re.compile(r"\s*\(at line (\d+), column (\d+)\)$")
_AT_END = re.compile(r"\s*\(at end of document\)$")


@define(slots=False)
class Source:
    """The text of a config with its name, and the paths that overrides have set since."""

    name: str
    text: str = ""
    overridden: list[Path] = field(factory=list)

    @cached_property
    def _lines(self) -> dict[Path, int]:
        try:
            return key_lines(self.text)
        except (
            AssertionError,
            IndexError,
            RecursionError,
        ):  # a document beyond the scanner: no line is no reason to fail
            return {}

    def place(self, path: Path) -> str:
        """`file:line` of a key or of the nearest table around it, or the override that set it or a part of it."""
        for override in reversed(self.overridden):
            shared = min(len(path), len(override))
            if shared and path[:shared] == override[:shared]:
                return f"--set {dotted(override)}"
        return f"{self.name}:{self.line(path)}" if self.text else self.name

    def line(self, path: Path) -> int:
        """The line of a key, from 1; of what encloses it where the key itself is not written."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def table(self) -> dict[str, Any]:
        """The document as plain values; ConfigError with the line for what is not TOML."""
        if self.name.endswith(".json"):
            return self._json()
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(self._syntax(str(error))) from None
        except RecursionError:
            raise ConfigError(f"{self.name}:1: nested too deeply; expected a few levels of tables") from None

    def _json(self) -> dict[str, Any]:
        """A resolved config; its complaints name the file only, because nobody wrote it by hand."""
        try:
            table = json.loads(self.text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{self.name}:{error.lineno}: {error.msg}; expected JSON") from None
        except RecursionError:
            raise ConfigError(f"{self.name}:1: nested too deeply; expected a resolved config") from None
        if not isinstance(table, dict):
            raise ConfigError(f"{self.name}:1: no table; expected a resolved config")
        self.text = ""
        return table

    def _syntax(self, message: str) -> str:
        located = _AT_LINE.search(message)
        if located is not None:
            what = message[: located.start()]
            return f"{self.name}:{located.group(1)}: {what} at column {located.group(2)}; expected TOML"
        last = self.text.rstrip().count("\n") + 1
        return f"{self.name}:{last}: {_AT_END.sub('', message)} at the end of the file; expected TOML"


def read_source(path: str | FilePath) -> Source:
    """The text of a config file; ConfigError for one that is missing, too large or not UTF-8."""
    try:
        with open(path, "rb") as stream:
            raw = stream.read(CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; expected a config file") from None
    if len(raw) > CONFIG_BYTES:
        raise ConfigError(f"{path}: more than {CONFIG_BYTES} bytes; expected a config file")
    try:
        return Source(str(path), raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8; expected a text file") from None


def dotted(path: Iterable[str | int]) -> str:
    """A path as prose writes it: `model.memory.levels[1].write_period`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")
