"""CS-10: the inner loop branches on a mode."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import File
from hecate_lint.index import parent, walk
from hecate_lint.model import Hit
from hecate_lint.rules._words import WordsRule
from hecate_lint.syntax import last_word


class ModeBranch(WordsRule):
    """The inner loop branches on a mode.

    SMELL. `if self.training:` around an update, `set_mode(...)`, `is_building`. Words are compared, never
    substrings; names from elsewhere are exempt.

    WHY. A unit that behaves otherwise in test is another unit; its test says nothing about its building.

    FIX. Let the conductor hold the phase.

    TRACE. Catalogue smell CS-10. Off unless selected.
    """

    id = "CS-10"
    name = "mode-branch"
    why = "a unit that behaves otherwise in test is another unit; its test says nothing about its building"
    mend = "let the conductor hold the phase"

    VALID = """
def forward(self, x):
    return F.dropout(x, self.p, training=self.training)
# ---
conductor.set_phase(Phase.BUILD)
# ---
def forward(self, x):
    if self.training:
        x = F.dropout(x)
    return x
# ---
training = 1
# ---
if self.due:
    pass
"""
    INVALID = """
def step(self, s):
    if self.training:  # <-
        return self.update(s)
    return s
# ---
unit.set_mode("build")  # <-
# ---
if unit.is_building:  # <-
    write(k)
# ---
def f(is_training):
    if not is_training:  # <-
        return None
# ---
if model.training and ready:  # <-
    learn()
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Branches on training or building, and calls that set a mode."""
        for branch in file.index.all(ast.If):
            words = {last_word(n) for n in walk(branch.test) if isinstance(n, (ast.Attribute, ast.Name))}
            if words & {"training", "is_building", "is_training"}:
                inside = {last_word(n) for s in branch.body for n in walk(s) if isinstance(n, ast.Call)}
                if not inside <= {"dropout", "Dropout"} or not inside:
                    yield Hit(branch, "the inner loop branches on a mode", "likely")
        for node in file.index.word("set_mode"):
            call = parent(node)
            if isinstance(call, ast.Call) and call.func is node:
                yield Hit(call, "a mode is set", "likely")
