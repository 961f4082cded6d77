"""PT-06: a forward that leaves the graph to ask a tensor for a number."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import Function, ancestors, class_of, function_of, own_nodes, parent
from hecate_lint.model import Hit
from hecate_lint.names import dotted_text
from hecate_lint.rule import Rule
from hecate_lint.syntax import decorators, last_word

_READS = frozenset({"item", "tolist", "numpy", "cpu"})


class GraphBreakInForward(Rule):
    """A forward pass reads a tensor's value on the host.

    SMELL. `.item()`, `.tolist()`, `.cpu()`, `.numpy()`, `print`, `if t.any():` or a test of the type of an op's
    result, in `forward` or a method that it calls.

    WHY. Each one waits for the device and breaks the graph of torch.compile in two.

    FIX. Stay in tensors: `torch.where` for the branch, a buffer for the number.

    TRACE. PyTorch rule PT-06.
    """

    id = "PT-06"
    name = "graph-break-in-forward"
    group = "torch"
    severity = "info"
    words = frozenset({"forward"})
    why = "each one waits for the device and cuts a compiled graph in two"
    mend = "stay in tensors: torch.where for a branch, a buffer for a number"

    VALID = """
def forward(self, x, mask=None):
    if mask is not None:
        x = x * mask
    return x
# ---
def forward(self, x):
    return torch.where(x > 10, x / 10, x)
# ---
class M(nn.Module):
    def report(self, x):
        return x.sum().item()
    def forward(self, x):
        return x
# ---
@torch.compiler.disable
def forward(self, x):
    return x.sum().item()
# ---
def forward(self, x):
    if not torch.compiler.is_compiling():
        print(x.sum().item())
    return x
# ---
def forward(self, x, y):
    if x.shape[0] > 1 and isinstance(y, tuple):
        x = x * 2
    return x
"""
    INVALID = """
def forward(self, x):
    if x.max().item() > 10:  # <-
        x = x / 10
    return x
# ---
def forward(self, q):
    o = flex_attention(q, q, q)
    return o[0] if isinstance(o, tuple) else o  # <-
# ---
class M(nn.Module):
    def _limit(self, x):
        return x.sum().tolist()  # <-
    def forward(self, x):
        return self._limit(x)
# ---
def forward(self, x, mask):
    if mask.any():  # <-
        x = x * mask
    return x
# ---
def forward(self, x):
    print("shape", x.shape)  # <-
    return x.cpu()  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        for function in self._paths(file):
            if "disable" in decorators(function) or "ignore" in decorators(function):
                continue
            results = _op_results(file, function)
            for node in own_nodes(function):
                message = _break(file, node, results)
                if message and not _is_outside_compile(node, function):
                    yield Hit(node, f"{message} in `{function.name}`", "likely")

    def _paths(self, file: File) -> list[Function]:
        """Every forward, and the methods of its class that it calls."""
        found: list[Function] = []
        for function in file.index.functions:
            if function.name == "forward":
                found.append(function)
                cls = class_of(function)
                methods = file.methods(cls) if cls is not None else {}
                for node in own_nodes(function):
                    if isinstance(node, ast.Call) and dotted_text(node.func).startswith("self."):
                        called = methods.get(last_word(node))
                        if called is not None and called not in found and called.name != "forward":
                            found.append(called)
        return found

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call()


def _op_results(file: File, function: Function) -> set[str]:
    """Local names that hold the result of a torch op."""
    found = set()
    for node in own_nodes(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call):
            if (file.names.callee(node.value) or "").startswith("torch."):
                found.add(node.targets[0].id)
    return found


def _break(file: File, node: ast.AST, results: set[str]) -> str:
    if not isinstance(node, ast.Call):
        return ""
    func = node.func
    if isinstance(func, ast.Attribute) and not node.args and not node.keywords:
        if func.attr in _READS:
            return f"`.{func.attr}()`"
        above = parent(node)
        if (
            func.attr in ("any", "all")
            and isinstance(above, (ast.If, ast.UnaryOp))
            and isinstance(func.value, (ast.Name, ast.Compare))
        ):
            return f"a branch on `.{func.attr}()`"
    if isinstance(func, ast.Name) and file.names.resolve(func) == "builtins.print":
        return "`print`"
    if isinstance(func, ast.Name) and func.id == "isinstance" and len(node.args) == 2:
        subject = node.args[0]
        if isinstance(subject, ast.Name) and subject.id in results and "tuple" in ast.unparse(node.args[1]):
            return "a test of the type of an op's result"
    return ""


def _is_outside_compile(node: ast.AST, function: Function) -> bool:
    for at in ancestors(node):
        if at is function:
            return False
        if isinstance(at, ast.If) and any(
            word in ast.unparse(at.test) for word in ("is_compiling", "debug", "verbose")
        ):
            return True
        if isinstance(at, ast.Raise):
            return True
        if isinstance(at, ast.Assert):
            return True
    return function_of(node) is not function
