"""PT-04: the way around autograd that autograd does not see."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import FUNCTIONS, ancestors, class_of, function_of, parent, walk
from hecate_lint.learnable import makes_tensor
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_ELEMENTS = frozenset({"parameters", "named_parameters", "buffers", "named_buffers"})


class DotData(Rule):
    """`.data` of a tensor is read or written.

    SMELL. `p.data` for a loop variable over `parameters()`, `self.weight.data`, `.weight.data` and `.bias.data`
    of a module.

    WHY. It detaches without the version counter: a write that autograd saved a value from goes unnoticed and
    the gradient is silently wrong. `.detach()` shares storage too, but such writes are caught.

    FIX. `.detach()` for reads; `with torch.no_grad(): p.copy_(...)` for initialisation.

    TRACE. PyTorch rule PT-04.
    """

    id = "PT-04"
    name = "dot-data"
    group = "torch"
    severity = "warn"
    fix_kind = "unsafe"
    words = frozenset({"data"})
    why = "a write through .data does not raise the version counter, so a wrong gradient goes unnoticed"
    mend = "read .detach(); write under torch.no_grad() with copy_"

    VALID = """
self.data = dataset.load()
# ---
w = self.weight.detach()
# ---
for batch in loader:
    x = batch.data
# ---
rows = response.data["rows"]
# ---
class Set:
    def __init__(self, weight):
        self.weight = weight
        self.data = [1]
    def get(self):
        return self.data[0]
"""
    INVALID = """
for p in self.parameters():
    p.data.mul_(0.9)  # <-
# ---
self.weight.data = new  # <-
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
    def forward(self, x):
        return x * self.scale.data  # <-
# ---
def norms(model):
    return [q.data.norm() for n, q in model.named_parameters()]  # <-
# ---
def init(layer):
    layer.bias.data.zero_()  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for node in file.index.word("data"):
            if isinstance(node, ast.Attribute) and _is_tensor(file, node.value):
                reads = isinstance(node.ctx, ast.Load) and not _is_written(node)
                severity = "info" if _initialises(node) else None
                yield Hit(node, f"`{ast.unparse(node)}` goes around autograd", "likely", severity, fixable=reads)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Attribute(attr=m.Name("data"))

    def fix(self, node: Any, hit: Hit) -> Any:
        import libcst as cst

        return cst.Call(node.with_changes(attr=cst.Name("detach")))


def _is_tensor(file: File, node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute) and node.attr in ("weight", "bias"):
        return True
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        cls = class_of(node)
        entry = file.attributes(cls).get(node.attr) if cls is not None else None
        return entry is not None and any(makes_tensor(file, value) for _, value in entry.writes)
    return isinstance(node, ast.Name) and _is_element(node)


def _is_element(name: ast.Name) -> bool:
    """Whether a name is a loop variable over `.parameters()` and its like."""
    for at in ancestors(name):
        loops = [at] if isinstance(at, (ast.For, ast.AsyncFor)) else getattr(at, "generators", [])
        for loop in loops:
            named = {n.id for n in walk(loop.target) if isinstance(n, ast.Name)}
            source = {last_word(n) for n in walk(loop.iter) if isinstance(n, ast.Call)}
            if name.id in named and source & _ELEMENTS:
                return True
        if isinstance(at, FUNCTIONS):
            return False
    return False


def _is_written(node: ast.Attribute) -> bool:
    above = parent(node)
    if isinstance(above, ast.Attribute) and above.attr.endswith("_"):
        return True
    return isinstance(above, ast.Subscript) and isinstance(above.ctx, ast.Store)


def _initialises(node: ast.AST) -> bool:
    function = function_of(node)
    return function is not None and ("init" in function.name or "reset" in function.name)
