"""Regular expressions that are compiled when they are first used: a run that finds nothing compiles few of them."""

import re
from collections.abc import Iterator


class Pattern:
    """Like `re.compile(text, flags)` with the methods that rules use."""

    __slots__ = ("_compiled", "_flags", "_text")

    def __init__(self, text: str, flags: int = 0):
        self._text, self._flags = text, flags
        self._compiled: re.Pattern[str] | None = None

    @property
    def compiled(self) -> re.Pattern[str]:
        """The compiled expression."""
        if self._compiled is None:
            self._compiled = re.compile(self._text, self._flags)
        return self._compiled

    def search(self, text: str) -> re.Match[str] | None:
        """As `re.search`."""
        return self.compiled.search(text)

    def match(self, text: str) -> re.Match[str] | None:
        """As `re.match`."""
        return self.compiled.match(text)

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """As `re.finditer`."""
        return self.compiled.finditer(text)

    def findall(self, text: str) -> list[str]:
        """As `re.findall` of an expression with at most one group."""
        found: list[str] = self.compiled.findall(text)
        return found
