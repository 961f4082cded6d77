"""FL-08: a size that is cut without a check."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, constant, split_words
from hecate_lint.index import ancestors, function_of, parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word, parts_in

_MASKS = frozenset({0xFF, 0xFFFF, 0x7FFF, 0xFFFFFF})
_INDEX = frozenset("idx index indices offset offsets position pos token slot expert row".split())
_WEIGHTS = frozenset("weight weights count share quota".split())


class SilentTruncation(Rule):
    """A size, count or index is cut to fit, and nothing checks that it did.

    SMELL. `BLOCK = min(n, 256)` that a kernel launch uses without a loop or grid over the rest; `max(1, int(w *
    k))` on weights; an index packed by `& 0xFFFF` without a range guard.

    WHY. Everything past the limit is dropped or folded onto other rows, and the result has the right shape.

    FIX. Cover the rest (`cdiv(n, BLOCK)`), or refuse what does not fit.

    TRACE. Fail-loud rule FL-08.
    """

    id = "FL-08"
    name = "silent-truncation"
    group = "fail-loud"
    severity = "warn"
    why = "what lies past the limit is dropped or folded onto other rows, and the result still has the right shape"
    mend = "cover the rest with a loop or grid, or raise where it does not fit"

    VALID = """
def launch(n):
    BLOCK = min(n, 256)
    kernel[(cdiv(n, BLOCK),)](BLOCK)
# ---
if n > 65535:
    raise ValueError("index does not fit 16 bits")
# ---
def pack(idx):
    if idx > 0xFFFF:
        raise ValueError(idx)
    return idx & 0xFFFF
# ---
def show(rows):
    return rows[: min(len(rows), 20)]
# ---
workers = max(1, int(cpus * 0.5))
# ---
low_byte = value & 0xFF
"""
    INVALID = """
def launch(n):
    BLOCK = min(n, 256)
    kernel[(1,)](BLOCK)  # <-
# ---
w = [max(1, int(x * k)) for x in weights]  # <-
# ---
def pack(idx, gate):
    return (gate << 16) | (idx & 0xFFFF)  # <-
# ---
def run(x, width):
    BLOCK_SIZE = min(width, 1024)
    fused_kernel[(x.shape[0],)](x, BLOCK_SIZE)  # <-
# ---
counts = {name: max(1, int(weight * total)) for name, weight in shares.items()}  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for call in file.index.all(ast.Call):
            if isinstance(call.func, ast.Subscript):
                yield from self._launch(call)
            elif last_word(call) == "max" and len(call.args) == 2 and constant(call.args[0]) == 1:
                yield from self._floored(call)
        for node in file.index.all(ast.BinOp):
            if isinstance(node.op, ast.BitAnd) and constant(node.right) in _MASKS:
                if set(split_words(last_word(node.left))) & _INDEX and not _guarded(node, last_word(node.left)):
                    yield Hit(node, f"`{ast.unparse(node)}` folds an index that no check kept in range", "likely")

    def _launch(self, call: ast.Call) -> Iterator[Hit]:
        """`kernel[grid](BLOCK)` where BLOCK was cut and neither the grid nor a loop covers the rest."""
        function = function_of(call)
        if function is None or not isinstance(call.func, ast.Subscript):
            return
        for node in walk(function):
            if not (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and isinstance(node.value, ast.Call)
            ):
                continue
            name, cut = node.targets[0].id, node.value
            if last_word(cut) != "min" or not any(isinstance(constant(arg), int) for arg in cut.args):
                continue
            size = next((ast.unparse(arg) for arg in cut.args if constant(arg) is None), "")
            used = any(
                isinstance(n, ast.Name) and n.id == name
                for arg in [*call.args, *(k.value for k in call.keywords)]
                for n in walk(arg)
            )
            covered = {"cdiv", "ceil"} & parts_in(call.func.slice) or name in ast.unparse(call.func.slice)
            looped = any(isinstance(n, (ast.For, ast.While)) for n in ancestors(call))
            given = any(ast.unparse(arg) == size for arg in call.args)
            if used and not covered and not looped and not given:
                yield Hit(call, f"`{name}` is `{size}` cut to fit, and nothing covers the rest", "likely")
                return

    def _floored(self, call: ast.Call) -> Iterator[Hit]:
        inner = call.args[1]
        if (
            isinstance(inner, ast.Call)
            and last_word(inner) in ("int", "round")
            and isinstance(parent(call), (ast.ListComp, ast.DictComp))
        ):
            comp = parent(call)
            words = parts_in(comp) if comp is not None else set()
            if words & _WEIGHTS:
                yield Hit(call, "small weights are raised to 1, so the shares no longer add up", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call() | m.BinaryOperation(operator=m.BitAnd())


def _guarded(node: ast.AST, name: str) -> bool:
    function = function_of(node)
    for test in walk(function) if function is not None else ():
        if isinstance(test, ast.Compare) and any(last_word(side) == name for side in (test.left, *test.comparators)):
            return True
    return False
