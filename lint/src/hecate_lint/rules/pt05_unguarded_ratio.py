"""PT-05: a division by a count or norm that can be zero."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, constant, locals_of, split_words
from hecate_lint.index import FUNCTIONS, ancestors, function_of, walk
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_COUNT = Pattern(r"(^|_)(count|counts|num_valid|n_valid|params|param_count|norm|norms|mask_sum|n_tokens|num_tokens)$")
_GUARDS = frozenset("clamp clamp_min clip max maximum add where nan_to_num".split())


class UnguardedRatio(Rule):
    """A ratio whose denominator can be zero has no guard.

    SMELL. A division by `mask.sum()`, a norm, a count of parameters or tokens, with no epsilon, `max(..., 1)`
    or branch.

    WHY. An empty mask gives NaN, and one NaN in a loss reaches every parameter in one step. A clamp placed
    later turns the infinity into a plausible number.

    FIX. `/ mask.sum().clamp_min(1)`, or a branch that says what an empty case means.

    TRACE. PyTorch rule PT-05.
    """

    id = "PT-05"
    name = "unguarded-ratio"
    group = "torch"
    severity = "warn"
    why = "an empty mask or a zero norm makes NaN, and one NaN in a loss reaches every parameter in one step"
    mend = "divide by count.clamp_min(1), or branch on the empty case"

    VALID = """
scale = (host / seed) ** 0.5 if seed > 0 else 0.0
# ---
loss = (err * mask).sum() / mask.sum().clamp_min(1)
# ---
y = x / (x.norm() + 1e-6)
# ---
mean = total / x.shape[-1]
# ---
def f(total, count):
    if count == 0:
        return 0.0
    return total / count
# ---
def g(total, num_tokens):
    num_tokens = max(num_tokens, 1)
    return total / num_tokens
"""
    INVALID = """
scale = (host_params / seed_params) ** 0.5  # <-
# ---
loss = (err * mask).sum() / mask.sum()  # <-
# ---
unit = x / x.norm(dim=-1, keepdim=True)  # <-
# ---
def f(total, token_count):
    return total / token_count  # <-
# ---
def g(loss, attention_mask):
    return (loss * attention_mask).sum() / torch.sum(attention_mask)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        for node in file.index.all(ast.BinOp):
            if isinstance(node.op, ast.Div):
                what = self._risky(file, node.right)
                if what and not _guarded(node, node.right):
                    yield Hit(node, f"`{ast.unparse(node.right)}`, {what}, can be zero", "likely")

    def _risky(self, file: File, node: ast.expr) -> str:
        if isinstance(node, ast.Call):
            word = last_word(node)
            inner = node.func.value if isinstance(node.func, ast.Attribute) else None
            if word == "sum" and any(
                "mask" in split_words(last_word(n)) for n in walk(node) if isinstance(n, (ast.Name, ast.Attribute))
            ):
                return "the sum of a mask"
            torch_norm = (file.names.callee(node) or "") in (
                "torch.norm",
                "torch.linalg.norm",
                "torch.linalg.vector_norm",
            )
            if torch_norm or (word == "norm" and isinstance(inner, (ast.Name, ast.Attribute, ast.Call))):
                return "a norm"
            return ""
        if isinstance(node, (ast.Name, ast.Attribute)) and _COUNT.search(last_word(node)):
            return "a count"
        return ""

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.BinaryOperation(operator=m.Divide())


def _guarded(node: ast.AST, denominator: ast.expr) -> bool:
    name = last_word(denominator)
    if isinstance(denominator, ast.Name):
        value = locals_of(node).value(denominator.id)
        values = locals_of(node).values.get(denominator.id, [])
        if any(v is not None and _bounds(v) for v in values):
            return True
        if value is not None and isinstance(value, ast.Constant):
            return True
    for at in ancestors(node):
        if isinstance(at, (ast.IfExp, ast.If, ast.While)) and name in ast.unparse(at.test):
            return True
        if isinstance(at, FUNCTIONS):
            break
    function = function_of(node)
    for test in walk(function) if function is not None else ():
        if isinstance(test, (ast.If, ast.Assert)) and name and any(last_word(n) == name for n in walk(test.test)):
            return True
    return False


def _bounds(value: ast.expr) -> bool:
    if constant(value):
        return True
    for node in walk(value):
        if isinstance(node, ast.Call) and last_word(node) in _GUARDS:
            return True
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return True
    return isinstance(value, ast.BoolOp)
