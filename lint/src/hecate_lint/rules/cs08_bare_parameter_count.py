"""CS-08: a parameter count is reported without the active figure."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import File, split_words
from hecate_lint.index import ancestors
from hecate_lint.model import Hit
from hecate_lint.rules._words import WordsRule
from hecate_lint.syntax import last_word, scope_nodes


class BareParameterCount(WordsRule):
    """A parameter count is reported without the active figure.

    SMELL. `print(sum(p.numel() ...))`, `report["params"] = sum(p.numel() ...)`. Words are compared, never
    substrings; names from elsewhere are exempt.

    WHY. With levels at different periods the total says nothing about the work of a step.

    FIX. Report total, mean active and worst active.

    TRACE. Catalogue smell CS-08. Off unless selected.
    """

    id = "CS-08"
    name = "bare-parameter-count"
    why = "with levels at different periods the total says nothing about the work of a step"
    mend = "report total, mean active and worst active"

    VALID = """
report.update(total=n, active_mean=a, active_worst=w)
# ---
ok = sum(p.numel() for p in m.parameters()) == 10
assert ok
# ---
n = sum(p.numel() for p in m.parameters())
# ---
print(x.numel())
# ---
def f(m):
    active = 3
    print(sum(p.numel() for p in m.parameters()), active)
"""
    INVALID = """
print(sum(p.numel() for p in unit.parameters()))  # <-
# ---
report["params"] = sum(p.numel() for p in m.parameters())  # <-
# ---
logger.info("%d", sum(p.numel() for p in m.parameters()))  # <-
# ---
print(f"{sum(p.numel() for p in m.parameters()):,} parameters")  # <-
# ---
stats["n"] = sum([q.numel() for q in m.parameters()]) / 1e6  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Sums of numel that reach a report."""
        for node in file.index.word("numel"):
            outer = next((a for a in ancestors(node) if isinstance(a, ast.Call) and last_word(a) == "sum"), None)
            if outer is None or "active" in {part for n in scope_nodes(node) for part in split_words(_name(n))}:
                continue
            sink = _sink(outer)
            if sink is not None:
                yield Hit(sink, "a parameter count is reported without the active figure", "likely")


def _name(node: ast.AST) -> str:
    return getattr(node, "arg", None) or last_word(node)


def _sink(outer: ast.AST) -> ast.AST | None:
    for at in ancestors(outer):
        if isinstance(at, ast.Call) and last_word(at) in ("print", "log", "info", "write"):
            return at
        if isinstance(at, ast.Assign):
            return at if isinstance(at.targets[0], ast.Subscript) else None
        if isinstance(at, (ast.Compare, ast.stmt)):
            return None
    return None
