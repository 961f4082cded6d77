"""CS-07: a frozen flag decides whether a level updates."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import File, split_words
from hecate_lint.index import walk
from hecate_lint.model import Hit
from hecate_lint.rules._words import WordsRule
from hecate_lint.syntax import last_word


class FrozenFlag(WordsRule):
    """A frozen flag decides whether a level updates.

    SMELL. `if not self.frozen:`, `if level.is_frozen:`. Words are compared, never substrings; names from
    elsewhere are exempt.

    WHY. A level rests because its period says so; a flag is forgotten and nobody can tell resting from broken.

    FIX. Ask the pulse.

    TRACE. Catalogue smell CS-07. Off unless selected.
    """

    id = "CS-07"
    name = "frozen-flag"
    why = "a level rests because its period says so; a flag is forgotten and nobody can tell resting from broken"
    mend = "ask the pulse"

    VALID = """
if pulse.active(level):
    self.update(g)
# ---
cfg = dataclasses.dataclass(frozen=True)
# ---
frozen = 1
# ---
if self.due:
    pass
# ---
names = frozenset()
if names:
    pass
"""
    INVALID = """
if not self.frozen:  # <-
    self.update(g)
# ---
if level.is_frozen:  # <-
    skip(level)
# ---
def step(frozen):
    if frozen:  # <-
        return
# ---
if a and not unit.frozen_flag:  # <-
    pass
# ---
if x:
    pass
elif self.frozen:  # <-
    pass
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Branches on a frozen flag."""
        for branch in file.index.all(ast.If):
            if any(
                isinstance(n, (ast.Attribute, ast.Name)) and "frozen" in split_words(last_word(n))
                for n in walk(branch.test)
            ):
                yield Hit(branch, "an update hangs on a frozen flag", "likely")
