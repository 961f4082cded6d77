"""PT-16: library code that knows which device it runs on."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import FUNCTIONS, ancestors, function_of, parent
from hecate_lint.model import Hit
from hecate_lint.names import parameters
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_CUDA = Pattern(r"^cuda(:\d+)?$")


class HardCodedDevice(Rule):
    """A device is written into library code.

    SMELL. `device="cuda"`, `.to("cuda:0")`, `.cuda()`, `torch.cuda.current_device()` where a device argument is
    in scope.

    WHY. The code fails on a machine without that device and computes on the wrong one on a machine with
    several.

    FIX. Take the device of an input, or an argument.

    TRACE. PyTorch rule PT-16.
    """

    id = "PT-16"
    name = "hard-coded-device"
    group = "torch"
    severity = "warn"
    why = "it fails without that device, and computes on the wrong one where there are several"
    mend = "take the device of an input: x.device"

    VALID = """
def forward(self, x):
    return x + torch.zeros(4, device=x.device)
# ---
def build(dev):
    return torch.cuda.get_device_properties(dev)
# ---
def f(x):
    if x.device.type == "cuda":
        return x
# ---
device = "cuda" if torch.cuda.is_available() else "cpu"
# ---
if __name__ == "__main__":
    model = Model().cuda()
# ---
def f(x):
    if x.is_cuda:
        return torch.zeros(4, device="cuda")
"""
    INVALID = """
def forward(self, x):
    return x + torch.zeros(4, device="cuda")  # <-
# ---
def build(dev):
    return torch.cuda.get_device_properties(torch.cuda.current_device())  # <-
# ---
def move(model):
    return model.cuda()  # <-
# ---
def place(x):
    return x.to("cuda:0")  # <-
# ---
import torch as t
def make(n):
    return t.empty(n, device=t.device("cuda"))  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test or file.is_script:
            return
        for node in file.index.all(ast.Constant):
            if isinstance(node.value, str) and _CUDA.match(node.value) and self._places(node) and not _is_gated(node):
                yield Hit(node, f'"{node.value}" is written into library code', "likely")
        for call in file.names.calls("torch.cuda.current_device"):
            function = function_of(call)
            names = {a.arg for a in parameters(function.args)} if function is not None else set()
            if names & {"device", "dev", "device_id"}:
                yield Hit(call, "the current device is asked although a device was handed in", "likely")
        for attribute in file.index.word("cuda"):
            call_ = parent(attribute)
            if isinstance(attribute, ast.Attribute) and isinstance(call_, ast.Call) and call_.func is attribute:
                if not call_.args and not call_.keywords and file.names.resolve(attribute) != "torch.cuda":
                    function = function_of(call_)
                    if function is not None and function.name != "cuda" and not _is_gated(call_):
                        yield Hit(call_, f"`{ast.unparse(call_)}` moves to a device of its own choice", "likely")

    def _places(self, node: ast.Constant) -> bool:
        """Whether the literal decides where a tensor is made or moved."""
        above = parent(node)
        if function_of(node) is None:
            return False
        if isinstance(above, ast.keyword):
            return above.arg in ("device", "map_location")
        return (
            isinstance(above, ast.Call)
            and node in above.args
            and last_word(above) in ("to", "device", "set_default_device")
        )

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.SimpleString() | m.Call()


def _is_gated(node: ast.AST) -> bool:
    """Whether a test of the device or of its presence stands around."""
    for at in ancestors(node):
        if isinstance(at, (ast.If, ast.IfExp, ast.While)):
            text = ast.unparse(at.test)
            if "cuda" in text or "device" in text or "gpu" in text.lower():
                return True
        if isinstance(at, FUNCTIONS):
            return False
    return False
