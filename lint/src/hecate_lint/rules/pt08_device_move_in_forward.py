"""PT-08: a table that travels to the device in every forward."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments
from hecate_lint.index import class_of, function_of, parent, walk
from hecate_lint.learnable import parameter_in
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word


class DeviceMoveInForward(Rule):
    """A plain tensor attribute is moved to the device in forward.

    SMELL. `self.cos.to(x.device)` or `self.table.cuda()` in `forward`.

    WHY. The tensor lives on the host and is copied in every call; `module.to(device)` does not know it, nor
    does state_dict.

    FIX. `self.register_buffer("cos", cos, persistent=False)`.

    TRACE. PyTorch rule PT-08.
    """

    id = "PT-08"
    name = "device-move-in-forward"
    group = "torch"
    severity = "warn"
    words = frozenset({"forward"})
    why = "the tensor is copied from the host in every call, and module.to() does not know it"
    mend = "make it a buffer: register_buffer(name, tensor, persistent=False)"

    VALID = """
def forward(self, x):
    return x * self.scale.to(x.dtype)
# ---
def forward(self, x):
    return x.to(self.weight.device) @ self.weight
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("cos", torch.zeros(4))
    def forward(self, x):
        return x * self.cos.to(x.device)
# ---
def prepare(self, x):
    self.table = self.table.to(x.device)
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
    def forward(self, x):
        return self.inner.to(x.device)(x)
"""
    INVALID = """
def forward(self, x):
    return x * self.cos.to(x.device)  # <-
# ---
def forward(self, x):
    return x + self.table.cuda()  # <-
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.freqs = torch.arange(8)
    def forward(self, x):
        f = self.freqs.to(device=x.device, dtype=x.dtype)  # <-
        return x * f
# ---
def forward(self, ids):
    mask = self.mask.to(ids.device)  # <-
    return ids * mask
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.bins = torch.linspace(0, 1, 9)
    def forward(self, x, device):
        return torch.bucketize(x, self.bins.to(device))  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for node in file.index.word("to", "cuda"):
            call, subject = parent(node), getattr(node, "value", None)
            if not (isinstance(call, ast.Call) and call.func is node and isinstance(subject, ast.Attribute)):
                continue
            function = function_of(call)
            if function is None or function.name != "forward" or not isinstance(subject.value, ast.Name):
                continue
            if (
                subject.value.id == "self"
                and (node_is_cuda(node) or _names_device(call))
                and self._is_plain(file, subject)
            ):
                if not isinstance(parent(call), ast.Assign) or not _writes_back(call, subject):
                    yield Hit(call, f"`{ast.unparse(subject)}` is moved to the device in every forward", "likely")

    def _is_plain(self, file: File, subject: ast.Attribute) -> bool:
        """Whether the attribute is no parameter, buffer or module, as far as this class says."""
        cls = class_of(subject)
        entry = file.attributes(cls).get(subject.attr) if cls is not None else None
        if entry is None or not entry.writes:
            return cls is None
        for target, value in entry.writes:
            if isinstance(target, ast.Call) or parameter_in(file, value) is not None:
                return False
            if isinstance(value, ast.Call) and not (file.names.callee(value) or "").startswith("torch."):
                return False
            if isinstance(value, ast.Call) and (file.names.callee(value) or "").startswith("torch.nn."):
                return False
        return any(isinstance(value, ast.Call) for _, value in entry.writes)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call(func=m.Attribute(value=m.Attribute(value=m.Name("self"))))


def node_is_cuda(node: ast.AST) -> bool:
    """Whether a move names its device by its method."""
    return last_word(node) == "cuda"


def _names_device(call: ast.Call) -> bool:
    given = [*call.args, *(v for k, v in arguments(call).items() if k == "device")]
    return any("device" in last_word(n) for value in given for n in walk(value))


def _writes_back(call: ast.Call, subject: ast.Attribute) -> bool:
    above = parent(call)
    return isinstance(above, ast.Assign) and any(ast.unparse(t) == ast.unparse(subject) for t in above.targets)
