"""CS-03: a level is described as a cache."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import File
from hecate_lint.index import parent
from hecate_lint.model import Hit
from hecate_lint.rules._words import Defined, WordsRule
from hecate_lint.syntax import last_word


class LevelsAreNotCaches(WordsRule):
    """A level is described as a cache.

    SMELL. `CacheLevel`, `cache_tier`, an eviction policy on a level. Words are compared, never substrings;
    names from elsewhere are exempt.

    WHY. A level keeps what it learned; a cache may lose everything without harm.

    FIX. Call it a level; it has a period, no eviction.

    TRACE. Catalogue smell CS-03. Off unless selected.
    """

    id = "CS-03"
    name = "levels-are-not-caches"
    why = "a level keeps what it learned; a cache may lose everything without harm"
    mend = "call it a level; it has a period, no eviction"

    VALID = """
class Level: ...
# ---
@functools.lru_cache(8)
def mask(n): ...
# ---
cache = {}
# ---
level = Level(period=8)
# ---
store = Store(eviction_policy="lru")
"""
    INVALID = """
class CacheLevel: ...  # <-
# ---
level = Level(eviction_policy="lru")  # <-
# ---
cache_tier = 2  # <-
# ---
def make(level_cache): ...  # <-
# ---
self.tierCache = {}  # <-
"""

    def wrong(self, file: File, defined: Defined) -> str:
        words = defined.words
        if "cache" in words and ("level" in words or "tier" in words):
            return "calls a level a cache"
        return ""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Names, and eviction keywords given to levels."""
        yield from super().nominate(file)
        for keyword in file.index.all(ast.keyword):
            call = parent(keyword)
            if (
                (keyword.arg or "").startswith("eviction")
                and isinstance(call, ast.Call)
                and "level" in last_word(call).lower()
            ):
                yield Hit(call, "a level is given an eviction policy", "likely")
