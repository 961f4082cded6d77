"""PT-01: torch names that start with an underscore."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import parent
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

_PUBLIC = {
    "torch._dynamo.disable": "torch.compiler.disable",
    "torch._dynamo.allow_in_graph": "torch.compiler.allow_in_graph",
    "torch._dynamo.reset": "torch.compiler.reset",
    "torch._dynamo.is_compiling": "torch.compiler.is_compiling",
    "torch._foreach_norm": "torch.nn.utils.get_total_norm",
}
_SAFE = frozenset(name for name in _PUBLIC if name != "torch._foreach_norm")
_DOCUMENTED = ("torch._check", "torch._assert", "torch._logging", "torch._scaled_mm")


class PrivateTorchApi(Rule):
    """A private name of torch is used.

    SMELL. An attribute path or import through an underscore: `torch._dynamo.disable`, `torch._foreach_norm`,
    `from torch._inductor import config`.

    WHY. Private names change between minor releases without a word, and the failure appears on somebody else's
    machine.

    FIX. The public name where there is one; `--fix` writes it where it is the same thing.

    TRACE. PyTorch rule PT-01.
    """

    id = "PT-01"
    name = "private-torch-api"
    group = "torch"
    severity = "warn"
    fix_kind = "safe"
    why = "private names change between minor releases, and the failure appears on a user's machine"
    mend = "use the public name, or guard the import and say which versions it works with"

    VALID = """
@torch.compiler.disable
def f(x): ...
# ---
torch._check(x.shape[0] > 0)
# ---
print(torch.__version__)
# ---
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from torch._C import Graph
# ---
x._private = 1
mine._dynamo.disable(f)
# ---
from torch.optim.lr_scheduler import LRScheduler
"""
    INVALID = """
@torch._dynamo.disable  # <-
def f(x): ...
# ---
norms = torch._foreach_norm(grads)  # <-
# ---
from torch._inductor import config  # <-
# ---
import torch._dynamo as td  # <-
td.reset()
# ---
y = torch.ops._quantized.linear(x)  # <-
# ---
from torch.nn.modules.conv import _ConvNd  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for node in file.index.all(ast.Attribute):
            if isinstance(parent(node), ast.Attribute):
                continue
            dotted = file.names.resolve(node)
            if dotted is not None and _is_private(dotted) and not _imported_privately(file, node):
                public = _PUBLIC.get(dotted)
                mend = f"use {public}" if public else ""
                yield Hit(node, f"`{dotted}` is private to torch", mend=mend, fixable=dotted in _SAFE, data=public)
        for imported in file.index.all(ast.ImportFrom):
            module = imported.module or ""
            for alias in imported.names:
                at = imported if alias.name == "*" else alias
                if imported.level == 0 and _is_private(f"{module}.{alias.name}"):
                    yield Hit(at, f"`{module}.{alias.name}` is private to torch", fixable=False)
        for plain in file.index.all(ast.Import):
            for alias in plain.names:
                if _is_private(alias.name):
                    yield Hit(alias, f"`{alias.name}` is private to torch", fixable=False)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Attribute() | m.ImportAlias() | m.ImportFrom()

    def fix(self, node: Any, hit: Hit) -> Any:
        import libcst.matchers as m

        return hit.data if m.matches(node, m.Attribute(value=m.Attribute(value=m.Name("torch")))) else None


def _imported_privately(file: File, node: ast.AST) -> bool:
    """Whether the chain starts at a name whose import was reported already."""
    while isinstance(node, ast.Attribute):
        node = node.value
    for binder in file.names.bound(node) or () if isinstance(node, ast.Name) else ():
        if isinstance(binder, ast.alias):
            above = parent(binder)
            module = (above.module or "") + "." if isinstance(above, ast.ImportFrom) else ""
            if _is_private(module + binder.name) and (binder.asname or isinstance(above, ast.ImportFrom)):
                return True
    return False


def _is_private(dotted: str) -> bool:
    if not dotted.startswith("torch.") or dotted.startswith(_DOCUMENTED):
        return False
    return any(part.startswith("_") and not part.startswith("__") for part in dotted.split("."))
