"""PT-17: parameters that the module does not know it has."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import class_of
from hecate_lint.learnable import PARAMETER
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

_WRAP = {"list": ("ParameterList", "ModuleList"), "dict": ("ParameterDict", "ModuleDict")}


class UnregisteredParameters(Rule):
    """Modules or parameters are kept in a plain list, tuple or dict attribute.

    SMELL. `self.heads = [nn.Linear(4, 4) for _ in range(3)]`, `self.ws = {"a": nn.Parameter(...)}`.

    WHY. `parameters()`, `to()` and `state_dict()` do not see them: they are not moved, not saved and not
    learned.

    FIX. `nn.ModuleList`, `nn.ParameterList`, `nn.ModuleDict`; `--unsafe-fixes` writes it.

    TRACE. PyTorch rule PT-17.
    """

    id = "PT-17"
    name = "unregistered-parameters"
    group = "torch"
    severity = "error"
    fix_kind = "unsafe"
    words = frozenset({"nn", "Module", "Parameter", "Linear", "torch"})
    why = "parameters(), to() and state_dict() do not see them: not moved, not saved, not learned"
    mend = "nn.ModuleList, nn.ParameterList or nn.ModuleDict"

    VALID = """
self.heads = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
# ---
layers = [nn.Linear(4, 4)]
self.net = nn.Sequential(*layers)
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.sizes = [4, 8]
        self.names = {"a": nn.Linear}
# ---
class Plain:
    def __init__(self):
        self.heads = [nn.Linear(4, 4)]
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.pairs = [(self.a, 1)]
"""
    INVALID = """
self.heads = [nn.Linear(4, 4) for _ in range(3)]  # <-
# ---
self.ws = {"a": nn.Parameter(torch.zeros(2))}  # <-
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = (nn.ReLU(), nn.Linear(2, 2))  # <-
# ---
from torch.nn import Linear as Lin, Module
class M(Module):
    def __init__(self, n):
        super().__init__()
        self.by_name = {str(i): Lin(2, 2) for i in range(n)}  # <-
# ---
class Block(nn.Module):
    pass
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = [Block(), Block()]  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for assign in file.index.all(ast.Assign):
            target = assign.targets[0]
            if not (
                isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
            ):
                continue
            cls = class_of(assign)
            if cls is not None and not file.is_module_class(cls):
                continue
            made, container = _elements(assign.value)
            kinds = [self._kind(file, element) for element in made]
            if made and all(kinds):
                wrap = _WRAP[container][1 if kinds[0] == "module" else 0]
                name = f"{ast.unparse(target)}"
                fixable = not isinstance(assign.value, ast.Tuple) and len(set(kinds)) == 1
                yield Hit(
                    assign.value,
                    f"`{name}` keeps {kinds[0]}s in a plain {container}",
                    data=(wrap, self._home(file)),
                    fixable=fixable,
                )

    def _kind(self, file: File, node: ast.expr) -> str:
        if not isinstance(node, ast.Call):
            return ""
        called = file.names.callee(node) or ""
        if called in PARAMETER:
            return "parameter"
        if called.startswith("torch.nn.") and called.rsplit(".", 1)[-1][:1].isupper() and called.count(".") == 2:
            return "module"
        cls = file.classes.get(node.func.id) if isinstance(node.func, ast.Name) else None
        return "module" if cls is not None and file.is_subclass(cls, "torch.nn.Module") else ""

    def _home(self, file: File) -> str:
        """How this file writes `torch.nn`, empty when it does not."""
        for node in file.index.all(ast.Name):
            if file.names.resolve(node) == "torch.nn":
                return node.id
        for attribute in file.index.all(ast.Attribute):
            if file.names.resolve(attribute) == "torch.nn":
                return ast.unparse(attribute)
        return ""

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.List() | m.Tuple() | m.Dict() | m.ListComp() | m.DictComp()

    def fix(self, node: Any, hit: Hit) -> Any:
        import libcst as cst

        wrap, home = hit.data
        if not home:
            return None
        return cst.Call(cst.parse_expression(f"{home}.{wrap}"), [cst.Arg(node)])


def _elements(value: ast.expr) -> tuple[list[ast.expr], str]:
    """The values of a written-out container or comprehension, and which kind of container it is."""
    if isinstance(value, (ast.List, ast.Tuple)):
        return value.elts, "list"
    if isinstance(value, ast.ListComp):
        return [value.elt], "list"
    if isinstance(value, ast.DictComp):
        return [value.value], "dict"
    if isinstance(value, ast.Dict):
        return value.values, "dict"
    return [], ""
