"""KN-05: a unit of several levels whose spec does not say how they are joined."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments
from hecate_lint.index import parent
from hecate_lint.model import Hit
from hecate_lint.rule import Rule


class LevelWiring(Rule):
    """A multi-level unit names too few transfers or too few retentions.

    SMELL. `UnitSpec(levels=[1, 8], transfer=[])`: fewer transfer mechanisms than neighbouring pairs, or another
    number of retention parameters than levels.

    WHY. Levels without a transfer do not learn from each other; a shared retention gives two time scales one
    memory span.

    FIX. One transfer for each pair of neighbours, one retention for each level.

    TRACE. Kernel rule KN-05; CS-16 and CS-48 see the same in code.
    """

    id = "KN-05"
    name = "level-wiring"
    group = "kernels"
    severity = "error"
    words = frozenset({"UnitSpec"})
    why = "levels without a transfer do not learn from each other, and a shared retention gives them one memory span"
    mend = "name one transfer per pair of neighbours and one retention per level"

    VALID = """
spec = UnitSpec(levels=[1, 8], transfer=["error"], retention=["a", "b"])
# ---
spec = UnitSpec(levels=[1], transfer=[], retention=["a"])
# ---
spec = UnitSpec(levels=periods, transfer=[])
# ---
spec = UnitSpec(levels=[1, 8], transfer=transfers, retention=retentions)
# ---
spec = OtherSpec(levels=[1, 8], transfer=[])
"""
    INVALID = """
spec = UnitSpec(levels=[1, 8], transfer=[])  # <-
# ---
spec = UnitSpec(levels=[1, 8, 64], transfer=["error"], retention=["a", "b", "c"])  # <-
# ---
spec = UnitSpec(levels=(1, 8), transfer=["error"], retention=["a"])  # <-
# ---
spec = UnitSpec(levels=[1, 8])  # <-
# ---
def unit():
    return specs.UnitSpec(name="cms", levels=[1, 2, 4], transfer=["error", "momentum"], retention=["one"])  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for node in file.index.word("UnitSpec"):
            call = parent(node)
            if isinstance(call, ast.Call) and call.func is node:
                given = arguments(call)
                levels = _length(given.get("levels"))
                if levels is None or levels < 2:
                    continue
                transfers = _length(given.get("transfer")) if "transfer" in given else 0
                retentions = _length(given.get("retention")) if "retention" in given else levels
                if transfers is not None and transfers < levels - 1:
                    yield Hit(call, f"{levels} levels need {levels - 1} transfers, {transfers} named")
                elif retentions is not None and retentions != levels:
                    yield Hit(call, f"{levels} levels need {levels} retentions, {retentions} named")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call()


def _length(node: ast.AST | None) -> int | None:
    return len(node.elts) if isinstance(node, (ast.List, ast.Tuple)) else None
