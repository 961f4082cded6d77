"""A small name resolver: what dotted name does an expression mean, given the file's imports.

It follows aliases, from-imports, imports inside functions, re-bindings (`Param = nn.Parameter`) and
`functools.partial`; a parameter or local variable of the same name shadows the import.
"""

import ast
import re
from collections.abc import Iterator

from hecate_lint.index import FUNCTIONS, SCOPES, Index, ancestors, own_nodes, parent

# Homes that a public name is also reachable from, longest first.
_HOMES = (
    (re.compile(r"^torch\.nn\.modules\.\w+\.(?=[A-Z])"), "torch.nn."),
    (re.compile(r"^torch\.nn\.parameter\."), "torch.nn."),
    (re.compile(r"^torch\.autograd\.grad_mode\."), "torch."),
    (re.compile(r"^torch\.autograd\.function\.(?=Function$)"), "torch.autograd."),
    (re.compile(r"^torch\.optim\.optimizer\."), "torch.optim."),
    (re.compile(r"^torch\.optim\.[a-z_]+\.(?=[A-Z])"), "torch.optim."),
    (re.compile(r"^torch\.distributed\.distributed_c10d\."), "torch.distributed."),
)
_OPTIM_MODULES = ("torch.optim.lr_scheduler.", "torch.optim.swa_utils.")

# What a fragment (a snippet from a document or a buffer) means by a name that nothing in it binds.
_CONVENTION = {
    "torch": "torch",
    "nn": "torch.nn",
    "F": "torch.nn.functional",
    "dist": "torch.distributed",
    "checkpoint": "torch.utils.checkpoint.checkpoint",
    "flex_attention": "torch.nn.attention.flex_attention.flex_attention",
    "dataclass": "dataclasses.dataclass",
    "dataclasses": "dataclasses",
    "functools": "functools",
    "itertools": "itertools",
    "subprocess": "subprocess",
    "contextlib": "contextlib",
    "enum": "enum",
    "os": "os",
    "logging": "logging",
    "warnings": "warnings",
    "pickle": "pickle",
    "pynvml": "pynvml",
    "np": "numpy",
}


def canonical(dotted: str) -> str:
    """The public home of a dotted name: `torch.nn.parameter.Parameter` is `torch.nn.Parameter`."""
    if not dotted.startswith("torch."):
        return dotted
    for pattern, home in _HOMES:
        if home == "torch.optim." and dotted.startswith(_OPTIM_MODULES):
            continue
        dotted = pattern.sub(home, dotted)
    return dotted


class Names:
    """Resolves expressions of one module to dotted names; unknown is None, never a guess."""

    def __init__(self, index: Index):
        self._index = index
        self._cache: dict[ast.AST, str | None] = {}
        self._tables: dict[ast.AST, dict[str, list[ast.AST]]] = {}
        self.starred = any(a.name == "*" for a in index.all(ast.alias))
        # word -> local names it travels under: {"checkpoint": {"ckpt"}}
        self.aliases: dict[str, set[str]] = {}
        for alias in index.all(ast.alias):
            if alias.asname and alias.asname != alias.name:
                self.aliases.setdefault(alias.name.rsplit(".", 1)[-1], set()).add(alias.asname)
        for assign in index.all(ast.Assign):
            value, targets = assign.value, assign.targets
            if len(targets) == 1 and isinstance(targets[0], ast.Name):
                word = _word(value) or (_word(value.args[0]) if isinstance(value, ast.Call) and value.args else "")
                if word and word != targets[0].id:
                    self.aliases.setdefault(word, set()).add(targets[0].id)

    def uses(self, *dotted: str) -> Iterator[ast.Name | ast.Attribute]:
        """Every expression that means one of these dotted names, imports not counted."""
        wanted = set(dotted)
        for word in sorted({name.rsplit(".", 1)[-1] for name in dotted}):
            for local in (word, *self._travels(word)):
                for node in self._index.word(local):
                    if self.resolve(node) in wanted and isinstance(node.ctx, ast.Load):
                        yield node

    def calls(self, *dotted: str) -> Iterator[ast.Call]:
        """Every call of one of these dotted names."""
        for node in self.uses(*dotted):
            call = parent(node)
            if isinstance(call, ast.Call) and call.func is node:
                yield call

    def _travels(self, word: str) -> list[str]:
        seen, todo = {word}, [word]
        while todo:
            for local in self.aliases.get(todo.pop(), ()):
                if local not in seen:
                    seen.add(local)
                    todo.append(local)
        return sorted(seen - {word})

    def resolve(self, node: ast.AST | None, depth: int = 0) -> str | None:
        """The canonical dotted name of a Name or Attribute chain (or of a call's callee's partial)."""
        if not isinstance(node, (ast.Name, ast.Attribute)):
            return None
        if node in self._cache:
            return self._cache[node]
        self._cache[node] = None  # a re-binding that names itself ends here
        parts: list[str] = []
        at: ast.AST = node
        while isinstance(at, ast.Attribute):
            parts.append(at.attr)
            at = at.value
        found = None
        if isinstance(at, ast.Name) and depth < 6:
            base = self._name(at, depth)
            if base is not None:
                found = canonical(".".join([base, *reversed(parts)]))
        self._cache[node] = found
        return found

    def callee(self, call: ast.Call) -> str | None:
        """What a call calls."""
        return self.resolve(call.func)

    def bound(self, name: ast.Name) -> list[ast.AST] | None:
        """The nodes that bind this name in the nearest scope that binds it; None when nothing does."""
        inside: ast.AST = name
        crossed = False  # a class body is not visible from inside its functions
        for scope in ancestors(name):
            if isinstance(scope, SCOPES) and not _outside(scope, inside):
                is_class = isinstance(scope, ast.ClassDef)
                if not (is_class and crossed):
                    binders = self._table(scope).get(name.id)
                    if binders is not None:
                        return binders
                crossed = crossed or not is_class
            inside = scope
        return None

    def _name(self, name: ast.Name, depth: int) -> str | None:
        binders = self.bound(name)
        if binders is None:
            return None if self.starred else _CONVENTION.get(name.id, f"builtins.{name.id}")
        answers = [self._meaning(name.id, binder, depth) for binder in binders]
        known = {answer for answer in answers if answer is not None}
        # try: from a import f / except ImportError: f = None  still means a.f
        unknown = [binder for binder, answer in zip(binders, answers, strict=True) if answer is None]
        return known.pop() if len(known) == 1 and all(map(_is_fallback, unknown)) else None

    def _meaning(self, local: str, binder: ast.AST, depth: int) -> str | None:
        if isinstance(binder, ast.alias):
            return _imported(local, binder)
        if isinstance(binder, ast.Assign) and any(isinstance(t, ast.Name) and t.id == local for t in binder.targets):
            value = binder.value
            if isinstance(value, ast.Call) and self.resolve(value.func, depth + 1) == "functools.partial":
                value = value.args[0] if value.args else value
            return self.resolve(value, depth + 1)
        return None

    def _table(self, scope: ast.AST) -> dict[str, list[ast.AST]]:
        table = self._tables.get(scope)
        if table is None:
            table = self._tables[scope] = {}
            for name, binder in bindings(scope):
                table.setdefault(name, []).append(binder)
        return table


def bindings(scope: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Every (name, binding node) that a scope makes itself."""
    if isinstance(scope, (*FUNCTIONS, ast.Lambda)):
        for arg in parameters(scope.args):
            yield arg.arg, arg
    for node in own_nodes(scope):
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                yield node.id, _binding_statement(node)
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.split(".")[0], node
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler)) and node.name:
            yield node.name, node


def parameters(args: ast.arguments) -> list[ast.arg]:
    """All parameters of a function, stars included, in their order."""
    found = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return found + [arg for arg in (args.vararg, args.kwarg) if arg is not None]


def dotted_text(node: ast.AST) -> str:
    """`self.a.b` of an attribute chain as written; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _word(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _binding_statement(name: ast.Name) -> ast.AST:
    for at in ancestors(name):
        if isinstance(at, (ast.stmt, ast.NamedExpr, ast.comprehension, ast.withitem)):
            return at
    return name


def _outside(scope: ast.AST, inside: ast.AST) -> bool:
    """Whether a part of a definition (decorator, default, annotation, base) is evaluated around it, not in it."""
    if isinstance(scope, FUNCTIONS):
        return inside is scope.args or inside is scope.returns or inside in scope.decorator_list
    if isinstance(scope, ast.ClassDef):
        return inside in scope.bases or inside in scope.keywords or inside in scope.decorator_list
    return isinstance(scope, ast.Lambda) and inside is scope.args


def _imported(local: str, alias: ast.alias) -> str:
    statement = parent(alias)
    if isinstance(statement, ast.ImportFrom):
        module = "." * statement.level + (statement.module or "")
        separator = "" if module.endswith(".") else "."
        return canonical(f"{module}{separator}{alias.name}")
    return canonical(alias.name if alias.asname else local)


def _is_fallback(binder: ast.AST) -> bool:
    if isinstance(binder, ast.Assign):
        return isinstance(binder.value, ast.Constant)
    return isinstance(binder, (*FUNCTIONS, ast.ClassDef)) and isinstance(parent(binder), (ast.ExceptHandler, ast.If))
