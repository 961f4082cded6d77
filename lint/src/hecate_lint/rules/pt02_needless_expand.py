"""PT-02: an expand that broadcasting does anyway."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import parent
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.FloorDiv, ast.Mod)


class NeedlessExpand(Rule):
    """A tensor is expanded right before an operation that broadcasts.

    SMELL. `x * gate.expand_as(x)`, `x + b.expand(x.shape)`, `torch.broadcast_to` as an operand of arithmetic, a
    comparison or `torch.where`.

    WHY. It says nothing that the operation does not do, hides shape errors, and some backends copy.

    FIX. Write the operand plain; `--fix` does where the other operand is the one whose shape is taken.

    TRACE. PyTorch rule PT-02.
    """

    id = "PT-02"
    name = "needless-expand"
    group = "torch"
    severity = "info"
    fix_kind = "safe"
    words = frozenset({"expand", "expand_as", "broadcast_to"})
    why = "the operation broadcasts by itself; the expand hides shape errors and may copy"
    mend = "write the operand without the expand"

    VALID = """
return x * gate
# ---
idx = i.expand_as(t).contiguous()
# ---
y = torch.stack([a, b.expand(4, 2)])
# ---
z = torch.gather(x, 1, idx.expand(-1, 4))
# ---
mask = m.expand(2, 3)
y = x + mask
"""
    INVALID = """
return x * gate.expand_as(x)  # <-
# ---
z = x + b.expand(x.shape)  # <-
# ---
y = torch.where(mask.expand_as(x), x, 0)  # <-
# ---
close = a < torch.broadcast_to(limit, a.shape)  # <-
# ---
from torch import broadcast_to as bt
z = x - bt(mean, x.shape)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for node in file.index.word("expand", "expand_as"):
            call = parent(node)
            if isinstance(node, ast.Attribute) and isinstance(call, ast.Call) and call.func is node and call.args:
                yield from self._operand(file, call, node.value, call.args)
        for call in file.names.calls("torch.broadcast_to"):
            if len(call.args) == 2:
                yield from self._operand(file, call, call.args[0], call.args[1:])

    def _operand(self, file: File, call: ast.Call, inner: ast.expr, shape: list[ast.expr]) -> Iterator[Hit]:
        above = parent(call)
        message = f"`{ast.unparse(call.func)}` before an operation that broadcasts"
        if isinstance(above, ast.BinOp) and isinstance(above.op, _ARITHMETIC):
            other = above.right if above.left is call else above.left
            same = len(shape) == 1 and ast.unparse(shape[0]) in (
                f"{ast.unparse(other)}{tail}" for tail in ("", ".shape", ".size()")
            )
            yield Hit(call, message, fixable=same and isinstance(other, ast.Name), data=_simple(inner))
        elif isinstance(above, ast.Compare) or _is_where(file, above):
            yield Hit(call, message, fixable=False)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call()

    def fix(self, node: Any, hit: Hit) -> Any:
        return hit.data


def _is_where(file: File, above: ast.AST | None) -> bool:
    return isinstance(above, ast.Call) and file.names.callee(above) == "torch.where" and len(above.args) == 3


def _simple(inner: ast.expr) -> str | None:
    """The operand's text where taking it out of the call needs no parentheses."""
    plain = isinstance(inner, (ast.Name, ast.Attribute)) and "\n" not in ast.unparse(inner)
    return ast.unparse(inner) if plain else None
