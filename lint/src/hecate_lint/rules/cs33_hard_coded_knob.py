"""CS-33 to CS-36: a knob written into a rule that declares it as a choice."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import FUNCTIONS, walk
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_BASES = ("MemoryRule", "ComposedRule")
_STATE = frozenset("M S memory state momentum kept".split())
_RATES = Pattern(r"^(lr|eta|theta|write|step_size|rate)$")
_KEEP = Pattern(r"^(lam|lambda_|decay|retain|gamma)$")
_METHODS = frozenset({"step", "update", "write"})


class HardCodedKnob(Rule):
    """A memory rule computes in line what it should take from its strategy.

    SMELL. In the update of a class that is a composed rule: `(M @ k - v) ** 2` (bias), `torch.outer` added to
    the state (structure), `M - lr * grad` (algorithm), `decay * M` (retention).

    WHY. The knob that the config names no longer does anything: a comparison of biases or retentions then
    compares nothing.

    FIX. Ask the knob: `self.bias.grad(...)`, `self.algorithm.step(...)`, `self.retention(...)`; or declare it
    fixed in the spec.

    TRACE. Catalogue smells CS-33 to CS-36.
    """

    id = "CS-33"
    also = ("CS-34", "CS-35", "CS-36")
    name = "hard-coded-knob"
    group = "core"
    severity = "warn"
    words = frozenset(_BASES)
    why = "the knob in the config then changes nothing, and a comparison of its values compares nothing"
    mend = "ask the declared knob: self.bias, self.structure, self.algorithm, self.retention"

    VALID = """
class Rule(MemoryRule):
    def step(self, M, k, v):
        return self.algorithm.step(M, self.bias.grad(M, k, v))
# ---
class L2(AttentionalBias):
    def loss(self, M, k, v):
        return ((M @ k - v) ** 2).sum()
# ---
class Rule(MemoryRule):
    fixed = ("bias", "algorithm")
    def step(self, M, g, lr):
        return M - lr * g
# ---
class Rule(MemoryRule):
    def read(self, M, q):
        return M @ q
# ---
class Rule(MemoryRule):
    def __init__(self, width):
        self.scale = 2 * width
"""
    INVALID = """
class Rule(MemoryRule):
    def step(self, M, k, v):
        loss = ((M @ k - v) ** 2).sum()  # <-
        return loss
# ---
class Rule(MemoryRule):
    def step(self, M, g, lr):
        return M - lr * g  # <-
# ---
class Rule(MemoryRule):
    def step(self, M, k, v):
        return M + torch.outer(v, k)  # <-
# ---
class Rule(MemoryRule):
    def step(self, M, u, retain):
        return self.add(retain * M, u)  # <-
# ---
class Base(MemoryRule):
    pass
class Rule(Base):
    def update(self, memory, k, v):
        return F.mse_loss(memory @ k, v)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        for cls in file.index.all(ast.ClassDef):
            if not any(base.rsplit(".", 1)[-1] in _BASES for base in file.bases(cls)):
                continue
            fixed = {
                name
                for item in cls.body
                if isinstance(item, ast.Assign) and last_word(item.targets[0]) == "fixed"
                for name in _literals(item)
            }
            for item in cls.body:
                if isinstance(item, FUNCTIONS) and item.name in _METHODS:
                    for node in walk(item):
                        knob = _knob(node)
                        if knob and knob not in fixed:
                            yield Hit(node, f"the {knob} of `{cls.name}` is written in line", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.BinaryOperation() | m.Call()


def _literals(node: ast.Assign) -> list[str]:
    return [str(n.value) for n in walk(node.value) if isinstance(n, ast.Constant)]


def _is_state(node: ast.AST) -> bool:
    return last_word(node) in _STATE


def _knob(node: ast.AST) -> str:
    if isinstance(node, ast.Call) and last_word(node) in ("mse_loss", "l1_loss", "huber_loss"):
        return "bias"
    if not isinstance(node, ast.BinOp):
        return ""
    left, right = node.left, node.right
    if isinstance(node.op, ast.Pow) and isinstance(left, ast.BinOp) and isinstance(left.op, ast.Sub):
        reads = any(
            isinstance(n, ast.BinOp) and isinstance(n.op, ast.MatMult) and _is_state(n.left) for n in walk(left)
        )
        return "bias" if reads else ""
    if isinstance(node.op, ast.Add) and _is_state(left) and isinstance(right, ast.Call) and last_word(right) == "outer":
        return "structure"
    if (
        isinstance(node.op, ast.Sub)
        and _is_state(left)
        and isinstance(right, ast.BinOp)
        and isinstance(right.op, ast.Mult)
    ):
        return "algorithm" if _RATES.search(last_word(right.left)) else ""
    if isinstance(node.op, ast.Mult) and _is_state(right) and _KEEP.search(last_word(left)):
        return "retention"
    return ""
