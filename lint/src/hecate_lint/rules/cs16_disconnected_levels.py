"""CS-16, CS-24, CS-25, CS-26: levels that do not learn from each other."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word, words_in

_LEVELS = frozenset({"levels", "frequencies"})
_PAIRS = (("slow", "fast"), ("outer", "inner"), ("low", "high"))


class DisconnectedLevels(Rule):
    """Levels run side by side on the same input, or are averaged into each other.

    SMELL. A forward that loops over `self.levels` with the shared input only and hands nothing from one level
    to the next; a "transfer" that adds one level's parameters to another's.

    WHY. Without a path between them the levels are an ensemble, not a nested system; averaging weights mixes
    two time scales into one.

    FIX. Hand an error, a momentum or an initial state from level to level, and name it in the spec.

    TRACE. Catalogue smells CS-16, CS-24, CS-25 and CS-26; KN-05 checks the spec, a gradient-flow probe the run.
    """

    id = "CS-16"
    also = ("CS-24", "CS-25", "CS-26")
    name = "disconnected-levels"
    group = "core"
    severity = "warn"
    default = False
    why = "levels without a path between them are an ensemble: nothing slow is learned from what is fast"
    mend = "hand an error, a momentum or an initial state from each level to the next"

    VALID = """
def forward(self, x, err):
    for lv in self.levels:
        x, err = lv.step(x, err)
    return x, err
# ---
fast_state = slow.initial_state()
# ---
def forward(self, x):
    for level in self.levels:
        x = level(x)
    return x
# ---
def forward(self, x):
    return [layer(x) for layer in self.layers]
# ---
def forward(self, x, states):
    return [lv.step(x, s) for lv, s in zip(self.levels, states)]
"""
    INVALID = """
def forward(self, x):
    return [lv.step(x) for lv in self.levels]  # <-
# ---
slow.weight.data += 0.1 * fast.weight.data  # <-
# ---
def forward(self, x):
    out = []
    for level in self.levels:  # <-
        out.append(level(x))
    return out
# ---
def step(self, u):
    return sum(lv.absorb(u) for lv in self.levels)  # <-
# ---
slow.weight.lerp_(fast.weight, 0.1)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for comp in file.index.all(ast.ListComp, ast.GeneratorExp):
            generator = comp.generators[0]  # type: ignore[attr-defined]
            if _over_levels(generator.iter) and _shared_only(comp.elt, generator.target):  # type: ignore[attr-defined]
                yield Hit(comp, "each level gets the shared input and nothing from another level", "likely")
        for loop in file.index.all(ast.For):
            if _over_levels(loop.iter) and len(loop.body) == 1 and isinstance(loop.body[0], ast.Expr):
                call = loop.body[0].value
                if isinstance(call, ast.Call) and last_word(call) == "append" and call.args:
                    if _shared_only(call.args[0], loop.target):
                        yield Hit(loop, "each level gets the shared input and nothing from another level", "likely")
        for added in file.index.all(ast.AugAssign):
            if _mixes(added.target, added.value):
                yield Hit(added, "one level's parameters are added to another's", "likely")
        for node in file.index.word("lerp_"):
            above = parent(node)
            if isinstance(node, ast.Attribute) and isinstance(above, ast.Call) and above.args:
                if _mixes(node.value, above.args[0]):
                    yield Hit(above, "one level's parameters are averaged into another's", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.ListComp() | m.GeneratorExp() | m.For() | m.AugAssign() | m.Call()


def _over_levels(node: ast.AST) -> bool:
    return isinstance(node, (ast.Name, ast.Attribute)) and last_word(node) in _LEVELS


def _shared_only(made: ast.AST, target: ast.expr) -> bool:
    """A call of the level (or of a method of it) with names that the loop does not change."""
    if not isinstance(made, ast.Call) or not isinstance(target, ast.Name):
        return False
    called = {n.id for n in walk(made.func) if isinstance(n, ast.Name)}
    given = [*made.args, *(k.value for k in made.keywords)]
    if target.id not in called or not given:
        return False
    return all(isinstance(value, ast.Name) and value.id != target.id for value in given)


def _mixes(target: ast.AST, value: ast.AST) -> bool:
    into, source = words_in(target), words_in(value)
    stored = {"weight", "data", "bias", "parameters"}
    return (
        any(slow in into and fast in source for slow, fast in _PAIRS) and bool(into & stored) and bool(source & stored)
    )
