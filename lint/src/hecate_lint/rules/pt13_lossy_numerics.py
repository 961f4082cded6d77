"""PT-13: a formula for which torch has a form that keeps the digits."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, constant
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

_LOGS = {
    "torch.softmax": "torch.log_softmax",
    "torch.nn.functional.softmax": "torch.nn.functional.log_softmax",
    "torch.sigmoid": "torch.nn.functional.logsigmoid",
    "torch.nn.functional.sigmoid": "torch.nn.functional.logsigmoid",
}


class LossyNumerics(Rule):
    """A composed formula loses digits that a named function keeps.

    SMELL. `log(1 + x)`, `exp(x) - 1`, `log(sum(exp(x)))`, `log(softmax(x))`, `log(sigmoid(x))`, `log(1 -
    sigmoid(x))`.

    WHY. For small x the sum rounds to 1 and the logarithm to 0; for large x the exponential overflows.
    Gradients die first.

    FIX. `log1p`, `expm1`, `logsumexp`, `log_softmax`, `logsigmoid`; `--fix` writes those that take the same
    arguments.

    TRACE. PyTorch rule PT-13.
    """

    id = "PT-13"
    name = "lossy-numerics"
    group = "torch"
    severity = "info"
    fix_kind = "safe"
    words = frozenset({"log", "exp"})
    why = "small values round to nothing, large ones overflow, and the gradient goes first"
    mend = "use log1p, expm1, logsumexp, log_softmax or logsigmoid"

    VALID = """
y = torch.log1p(x)
# ---
y = torch.log(2 + x)
# ---
y = torch.exp(x) - 2
# ---
import math
y = math.log(1 + x)
# ---
y = torch.log(torch.relu(x) + eps)
# ---
y = torch.log(1 + x + z)
"""
    INVALID = """
y = torch.log(1 + x)  # <-
# ---
y = torch.log(torch.softmax(x, -1))  # <-
# ---
y = torch.exp(x) - 1  # <-
# ---
from torch import log, exp
y = log(exp(x).sum(-1))  # <-
# ---
y = torch.log(1 - torch.sigmoid(x))  # <-
# ---
y = torch.log(F.softmax(x, dim=-1) + 0.0)
z = F.softmax(x, dim=-1).log()  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for call in file.names.calls("torch.log"):
            if len(call.args) == 1 and not call.keywords:
                yield from self._logarithm(file, call, call.args[0])
        for node in file.index.word("log"):
            call_ = getattr(node, "_parent", None)
            if (
                isinstance(node, ast.Attribute)
                and isinstance(call_, ast.Call)
                and call_.func is node
                and not call_.args
            ):
                inner = node.value
                if isinstance(inner, ast.Call) and file.names.callee(inner) in _LOGS:
                    yield Hit(
                        call_,
                        f"log of {file.names.callee(inner)}: use {_LOGS[file.names.callee(inner) or '']}",
                        fixable=False,
                    )
        for minus in file.index.all(ast.BinOp):
            if isinstance(minus.op, ast.Sub) and constant(minus.right) in (1, 1.0) and isinstance(minus.left, ast.Call):
                if file.names.callee(minus.left) == "torch.exp" and len(minus.left.args) == 1:
                    yield Hit(minus, "exp(x) - 1: use torch.expm1", data=("expm1", minus.left.args[0], minus.left.func))

    def _logarithm(self, file: File, call: ast.Call, inner: ast.expr) -> Iterator[Hit]:
        if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Add):
            one = constant(inner.left) in (1, 1.0)
            if one and not isinstance(inner.right, ast.BinOp):
                yield Hit(call, "log(1 + x): use torch.log1p", data=("log1p", inner.right, call.func))
            elif constant(inner.right) in (1, 1.0) and not isinstance(inner.left, ast.BinOp):
                yield Hit(call, "log(x + 1): use torch.log1p", data=("log1p", inner.left, call.func))
        elif isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub) and constant(inner.left) == 1:
            if isinstance(inner.right, ast.Call) and (file.names.callee(inner.right) or "").endswith(".sigmoid"):
                yield Hit(call, "log(1 - sigmoid(x)): use logsigmoid(-x)", fixable=False)
        elif isinstance(inner, ast.Call):
            called = file.names.callee(inner) or ""
            if called in _LOGS:
                yield Hit(call, f"log of {called}: use {_LOGS[called]}", fixable=False)
            elif (
                isinstance(inner.func, ast.Attribute)
                and inner.func.attr == "sum"
                and isinstance(inner.func.value, ast.Call)
            ):
                if file.names.callee(inner.func.value) == "torch.exp":
                    yield Hit(call, "log(sum(exp(x))): use torch.logsumexp", fixable=False)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call() | m.BinaryOperation(operator=m.Subtract(), right=m.Integer("1") | m.Float("1.0"))

    def fix(self, node: Any, hit: Hit) -> Any:
        name, argument, func = hit.data
        text = ast.unparse(argument)
        if (
            not isinstance(func, ast.Attribute)
            or "\n" in text
            or not isinstance(argument, (ast.Name, ast.Attribute, ast.Subscript))
        ):
            return None
        return f"{ast.unparse(func.value)}.{name}({text})"
