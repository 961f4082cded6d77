"""What a plugin registers, read from its source: nothing linted is imported or executed."""

import ast
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import FUNCTIONS, Function, own_nodes
from hecate_lint.source import Source, UnreadableError

HOOK = "hecate_components"
_UNKNOWN = object()


@dataclass(frozen=True)
class Registration:
    """One entry of `hecate_components`: (kind, name, "module:Object") and where it is written."""

    kind: str
    name: str
    target: str
    file: File
    node: ast.AST

    @property
    def module(self) -> str:
        """The dotted module of the component."""
        return self.target.partition(":")[0]

    @property
    def attribute(self) -> str:
        """The object's name in it."""
        return self.target.partition(":")[2]


@cache
def load(path: str) -> File | None:
    """A parsed file, None when it cannot be read or parsed."""
    try:
        with open(path, "rb") as stream:
            source = Source(path, stream.read())
        return File(source, source.parse())
    except (OSError, UnreadableError):
        return None


def registrations(file: File) -> list[Registration]:
    """The components that a plugin module hands over, as far as they are written out as literals."""
    constants = {
        target.id: value
        for node in file.tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and (value := node.value) is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    found: list[Registration] = []
    for function in file.index.functions:
        if function.name != HOOK:
            continue
        for node in own_nodes(function):
            if isinstance(node, ast.Return) and node.value is not None:
                given = constants.get(node.value.id) if isinstance(node.value, ast.Name) else node.value
                for item in given.elts if isinstance(given, (ast.List, ast.Tuple)) else ():
                    parts = [str(literal(part)) for part in item.elts] if isinstance(item, ast.Tuple) else []
                    if len(parts) == 3 and ":" in parts[2]:
                        found.append(Registration(parts[0], parts[1], parts[2], file, item))
    return found


def source_root(path: str) -> str:
    """The folder that a file's top package stands in."""
    folder = os.path.dirname(os.path.abspath(path))
    while os.path.exists(os.path.join(folder, "__init__.py")):
        folder = os.path.dirname(folder)
    return folder


def locate(module: str, roots: list[str]) -> str:
    """The file of a dotted module below one of these source roots; empty when there is none."""
    parts = module.split(".")
    for root in roots:
        base = os.path.join(root, *parts)
        for path in (base + ".py", os.path.join(base, "__init__.py")):
            if os.path.isfile(path):
                return path
    return ""


def component(module: str, name: str, roots: list[str], depth: int = 0) -> tuple[File, ast.ClassDef | Function] | None:
    """The class or function behind "module:name", followed through re-exports."""
    path = locate(module, roots)
    file = load(path) if path else None
    if file is None or depth > 3:
        return None
    for node in file.tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and node.name == name:
            return file, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
                    for _ in range(node.level - 1):
                        package = package.rpartition(".")[0]
                    origin = f"{package}.{node.module}" if node.level and node.module else node.module or package
                    return component(origin, alias.name, roots, depth + 1)
    return None


def options(file: File, node: ast.ClassDef | Function) -> dict[str, Any] | None:
    """Keyword options with their literal defaults (`UNKNOWN` for others); None when a `**kwargs` hides them."""
    function: Function | None = node if isinstance(node, FUNCTIONS) else file.methods(node).get("__init__")
    if function is None:
        return _fields(file, node) if isinstance(node, ast.ClassDef) else {}
    args = function.args
    if args.kwarg is not None or args.vararg is not None:
        return None
    plain = [*args.posonlyargs, *args.args]
    if isinstance(node, ast.ClassDef):
        plain = plain[1:]
    found: dict[str, Any] = {}
    shift = len(plain) - len(args.defaults)
    for number, arg in enumerate(plain):
        found[arg.arg] = literal(args.defaults[number - shift]) if number >= shift else _UNKNOWN
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        found[arg.arg] = literal(default) if default is not None else _UNKNOWN
    return found


def _fields(file: File, cls: ast.ClassDef) -> dict[str, Any] | None:
    """Fields of a dataclass or attrs class; None for a class whose bases are elsewhere."""
    decorated = {ast.unparse(d).split("(")[0].rsplit(".", 1)[-1] for d in cls.decorator_list}
    if not decorated & {"dataclass", "define", "frozen", "mutable"}:
        return None if [b for b in cls.bases if ast.unparse(b) not in file.classes] else {}
    return {
        item.target.id: literal(item.value) if item.value is not None else _UNKNOWN
        for item in cls.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "ClassVar" not in ast.unparse(item.annotation)
    }


def literal(node: ast.expr | None) -> Any:
    """A literal's value, with None as the contract writes it; `UNKNOWN` for what is computed."""
    if node is None:
        return _UNKNOWN
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return _UNKNOWN
    return "none" if value is None else list(value) if isinstance(value, tuple) else value


def is_known(value: Any) -> bool:
    """Whether a default is a literal."""
    return value is not _UNKNOWN
