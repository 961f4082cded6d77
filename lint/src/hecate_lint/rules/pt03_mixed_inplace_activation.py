"""PT-03: the same activation in place here and out of place there."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments, constant
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

_MODULES = frozenset(
    "ReLU SiLU ELU LeakyReLU Hardtanh ReLU6 SELU CELU Mish Hardswish Hardsigmoid RReLU Threshold".split()
)
_FUNCTIONS = frozenset("relu silu elu leaky_relu hardtanh relu6 selu celu mish hardswish hardsigmoid rrelu".split())


class MixedInplaceActivation(Rule):
    """One file uses activations both in place and out of place.

    SMELL. `nn.ReLU(inplace=True)` beside `F.relu(x)` or `nn.ReLU()` in one file.

    WHY. Either is right; mixed, the reader cannot tell which outputs survive, and moving a layer changes what
    autograd may save.

    FIX. Drop `inplace=True`; `--fix` does.

    TRACE. PyTorch rule PT-03.
    """

    id = "PT-03"
    name = "mixed-inplace-activation"
    group = "torch"
    severity = "info"
    fix_kind = "safe"
    words = frozenset({"inplace"})
    why = "the reader cannot tell which outputs survive, and moving a layer changes what autograd may save"
    mend = "drop inplace=True"

    VALID = """
a = nn.ReLU()
def f(x): return F.relu(x)
# ---
b, c = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
# ---
a = nn.ReLU(inplace=flag)
b = nn.ReLU()
# ---
a = nn.ReLU(inplace=True)
b = nn.Linear(2, 2)
# ---
drop = nn.Dropout(0.1, inplace=True)
act = nn.ReLU()
"""
    INVALID = """
a = nn.ReLU(inplace=True)  # <-
def f(x): return F.relu(x)
# ---
b = nn.SiLU(inplace=True)  # <-
c = nn.SiLU()
# ---
from torch.nn import ReLU, ELU
net = [ReLU(inplace=True), ELU()]  # <-
# ---
def f(x):
    y = F.relu(x, inplace=True)  # <-
    return F.silu(y)
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.ReLU(True, inplace=True)  # <-
        self.b = nn.LeakyReLU(0.1)
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        inside: list[ast.Call] = []
        plain = False
        names = [f"torch.nn.{name}" for name in _MODULES] + [f"torch.nn.functional.{name}" for name in _FUNCTIONS]
        for call in file.names.calls(*names, "torch.relu"):
            given = arguments(call).get("inplace")
            if given is None:
                plain = True
            elif constant(given) is True:
                inside.append(call)
            elif constant(given) is False:
                plain = True
        for call in inside if plain else ():
            yield Hit(call, f"`{ast.unparse(call.func)}` in place, others in this file out of place")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call(args=[m.ZeroOrMore(), m.Arg(keyword=m.Name("inplace")), m.ZeroOrMore()])

    def fix(self, node: Any, hit: Hit) -> Any:
        import libcst as cst

        kept = [arg for arg in node.args if arg.keyword is None or arg.keyword.value != "inplace"]
        if kept and node.args[-1] not in kept:
            kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return node.with_changes(args=kept)
