"""PT-07: a constant tensor made anew in every forward."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments, constant
from hecate_lint.index import LOOPS, ancestors, function_of, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

_MAKERS = frozenset(f"torch.{name}" for name in "arange linspace eye triu tril ones full logspace".split())
_NEUTRAL = frozenset({"device", "dtype", "requires_grad"})


class AllocationInForward(Rule):
    """The same constant tensor is built in every forward.

    SMELL. `torch.tensor(0.5)`, `torch.arange(self.max_len)`, masks and tables made from the config only, in
    `forward`.

    WHY. Each call allocates, fills and often copies from the host: on a GPU that is a synchronisation per layer
    and step.

    FIX. `register_buffer(..., persistent=False)` in the constructor.

    TRACE. PyTorch rule PT-07.
    """

    id = "PT-07"
    name = "allocation-in-forward"
    group = "torch"
    severity = "info"
    words = frozenset({"forward"})
    why = "each call allocates and fills it again, on a GPU often with a copy from the host"
    mend = "make it once: register_buffer in the constructor, persistent=False"

    VALID = """
def forward(self, x):
    return x + self.pe(self.pos)
# ---
def forward(self, x):
    return x + self.pe(torch.arange(x.size(1), device=x.device))
# ---
def forward(self, x):
    if self.cache is None:
        self.cache = torch.arange(self.max_len)
    return x + self.cache
# ---
def forward(self, x):
    state = torch.zeros(self.width, self.width)
    return state @ x
# ---
def __init__(self):
    self.pos = torch.arange(self.max_len)
"""
    INVALID = """
def forward(self, x):
    pos = torch.arange(self.max_len, device=x.device)  # <-
    return x + self.pe(pos)
# ---
def forward(self, x):
    return x * torch.tensor(0.5)  # <-
# ---
def forward(self, x):
    mask = torch.triu(torch.ones(self.window, self.window), 1)  # <-
    return x.masked_fill(mask.bool(), 0)
# ---
from torch import tensor, eye
def forward(self, x):
    return x @ eye(self.d) + tensor([1.0, 2.0])  # <-
# ---
class M(nn.Module):
    def forward(self, x):
        scale = torch.linspace(0, 1, 16, device=x.device, dtype=x.dtype)  # <-
        return x * scale
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        seen: set[int] = set()
        for call in file.names.calls("torch.tensor", *sorted(_MAKERS)):
            function = function_of(call)
            if function is None or function.name != "forward" or _is_cached(call):
                continue
            outer = next(
                (a for a in ancestors(call) if isinstance(a, ast.Call) and file.names.callee(a) in _MAKERS), None
            )
            if outer is not None or not self._is_constant(file, call):
                continue
            if call.lineno not in seen:
                seen.add(call.lineno)
                yield Hit(call, f"`{ast.unparse(call)[:60]}` is the same tensor in every forward", "likely")

    def _is_constant(self, file: File, call: ast.Call) -> bool:
        """Whether only literals and attributes of self decide the value (device and dtype aside)."""
        deciding = [*call.args, *(v for k, v in arguments(call).items() if k not in _NEUTRAL)]
        if not deciding:
            return False
        if file.names.callee(call) == "torch.tensor":
            return all(_is_literal(value) for value in deciding)
        for value in deciding:
            for node in walk(value):
                if isinstance(node, ast.Name) and node.id != "self" and file.names.resolve(node) is None:
                    return False
        return not any(isinstance(at, LOOPS) for at in ancestors(call))

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call()


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, (ast.List, ast.Tuple)):
        return all(map(_is_literal, node.elts))
    return isinstance(node, ast.Constant) or (isinstance(node, ast.UnaryOp) and constant(node.operand) is not None)


def _is_cached(call: ast.Call) -> bool:
    for at in ancestors(call):
        if isinstance(at, ast.Assign) and any(isinstance(t, ast.Attribute) for t in at.targets):
            return True
        if isinstance(at, (ast.If, ast.IfExp)) and "None" in ast.unparse(at.test):
            return True
    return False
