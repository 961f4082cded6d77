"""What one file says: the index, the names and the class and function tables that rules share."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from hecate_lint.index import FUNCTIONS, Function, Index, ancestors, class_of, function_of, own_nodes, parent, walk
from hecate_lint.names import Names, dotted_text, parameters
from hecate_lint.pattern import Pattern
from hecate_lint.settings import Settings
from hecate_lint.source import Source

TESTS = Pattern(r"(^|/)(tests?|testing|_tests?)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$")
_SCRIPTS = Pattern(
    r"(^|/)(benchmarks?|examples?|scripts?|tools?|docs?|recipes?|demos?)/|(^|/)(setup|__main__|noxfile)\.py$"
)


@dataclass
class Attribute:
    """One attribute of a class: every value assigned to `self.<name>`, and every read of it."""

    name: str
    writes: list[tuple[ast.AST, ast.expr | None]] = field(default_factory=list)  # (target or call, value)
    reads: list[ast.Attribute] = field(default_factory=list)


class File:
    """One parsed file with everything that rules ask about it, computed when asked."""

    def __init__(self, source: Source, tree: ast.Module, settings: Settings | None = None):
        self.source = source
        self.settings = settings
        self.path = source.path
        self.tree = tree
        self.index = Index(tree)
        self.names = Names(self.index)
        self._attributes: dict[ast.ClassDef, dict[str, Attribute]] = {}

    @cached_property
    def is_test(self) -> bool:
        """Whether the path is that of a test or its helpers."""
        return bool(TESTS.search(self.path))

    @cached_property
    def uses_torch(self) -> bool:
        """Whether the file imports torch, or is a fragment that imports nothing."""
        aliases = self.index.all(ast.alias)
        above = [(parent(alias), alias) for alias in aliases]
        homes = [(at.module or "") if isinstance(at, ast.ImportFrom) else alias.name for at, alias in above]
        return not aliases or any(home.split(".")[0] == "torch" for home in homes)

    @cached_property
    def is_script(self) -> bool:
        """Whether the path is that of a script, example, benchmark or tool."""
        if _SCRIPTS.search(self.path):
            return True
        return any(
            isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in walk(node.test))
            for node in self.tree.body
        )

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """Classes of the file by name, nested ones too."""
        return {node.name: node for node in self.index.all(ast.ClassDef)}

    @cached_property
    def functions(self) -> dict[str, Function]:
        """Module-level and nested functions by name, methods not counted."""
        return {node.name: node for node in self.index.functions if not isinstance(parent(node), ast.ClassDef)}

    def bases(self, cls: ast.ClassDef) -> Iterator[str]:
        """Resolved names of all bases, through classes of the same file."""
        seen, todo = {cls.name}, list(cls.bases)
        while todo:
            base = todo.pop(0)
            local = self.classes.get(base.id) if isinstance(base, ast.Name) else None
            if local is not None and local.name not in seen:
                seen.add(local.name)
                yield local.name
                todo += local.bases
            elif local is None:
                yield self.names.resolve(base) or dotted_text(base)

    def is_subclass(self, cls: ast.ClassDef, *dotted: str) -> bool:
        """Whether a class derives from one of these, also through classes of the same file."""
        return any(base in dotted for base in self.bases(cls))

    def is_module_class(self, cls: ast.ClassDef) -> bool:
        """Whether a class is (or by its bases' names is likely) a torch module."""
        return any(
            base.startswith(("torch.nn.", "torch.jit.ScriptModule")) or base.rsplit(".", 1)[-1].endswith(_MODULES)
            for base in self.bases(cls)
        )

    def lineage(self, cls: ast.ClassDef) -> list[ast.ClassDef]:
        """The class and those of its bases that stand in this file."""
        found, todo = [], [cls]
        while todo:
            at = todo.pop(0)
            if at not in found:
                found.append(at)
                todo += [self.classes[b.id] for b in at.bases if isinstance(b, ast.Name) and b.id in self.classes]
        return found

    def methods(self, cls: ast.ClassDef) -> dict[str, Function]:
        """Methods of a class with those it inherits in this file."""
        found: dict[str, Function] = {}
        for at in reversed(self.lineage(cls)):
            found.update({item.name: item for item in at.body if isinstance(item, FUNCTIONS)})
        return found

    def attributes(self, cls: ast.ClassDef) -> dict[str, Attribute]:
        """`self.<name>` of a class (bases in this file included): every write and every read."""
        if cls not in self._attributes:
            table: dict[str, Attribute] = {}
            for at in self.lineage(cls):
                for item in at.body:
                    if isinstance(item, FUNCTIONS):
                        _collect(item, table)
                    elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        pass  # a declaration without a value says nothing about what is stored
            self._attributes[cls] = table
        return self._attributes[cls]

    def callee(self, call: ast.Call) -> Function | None:
        """The function or method of the same file that a call runs, one level of indirection."""
        func = call.func
        if isinstance(func, ast.Name):
            bound = self.names.bound(func) or []
            return next((item for item in bound if isinstance(item, FUNCTIONS)), None)
        if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id in ("self", "cls"):
            cls = class_of(call)
            return self.methods(cls).get(func.attr) if cls is not None else None
        return None

    def qualified(self, node: ast.AST) -> str:
        """Dotted names of the definitions around (and at) a node."""
        around = [node, *ancestors(node)]
        return ".".join(at.name for at in reversed(around) if isinstance(at, (*FUNCTIONS, ast.ClassDef)))


_MODULES = ("Module", "Model", "Layer", "PreTrainedModel", "LightningModule", "Block", "Attention")
_REGISTER = ("register_parameter", "register_buffer", "add_module", "register_module")


def arguments(call: ast.Call) -> dict[str, ast.expr]:
    """Keyword arguments of a call by name."""
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def constant(node: ast.AST | None) -> object:
    """The value of a literal, None for anything else (and for None)."""
    return node.value if isinstance(node, ast.Constant) else None


def is_main_guard(node: ast.AST) -> bool:
    """Whether a node stands under `if __name__ == "__main__"`."""
    for at in ancestors(node):
        if isinstance(at, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in walk(at.test)):
            return True
    return False


def is_dead(node: ast.AST, names: Names) -> bool:
    """Whether a node stands where nothing runs: `if False`, `if TYPE_CHECKING`."""
    inside = node
    for at in ancestors(node):
        if isinstance(at, ast.If) and inside in at.body:
            test = at.test
            if isinstance(test, ast.Constant) and not test.value:
                return True
            if (names.resolve(test) or "").endswith("TYPE_CHECKING"):
                return True
        inside = at
    return False


def split_words(identifier: str) -> list[str]:
    """Lower-case words of an identifier: `trainStep_2` -> train, step, 2."""
    return list(_words(identifier))


@lru_cache(maxsize=20_000)  # the same few identifiers are asked for by many rules
def _words(identifier: str) -> tuple[str, ...]:
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", identifier))
    return tuple(word for word in spaced.lower().split("_") if word)


def loop_names(node: ast.AST, name: str) -> list[str]:
    """The literal strings that a loop variable takes: `for n in ("a", "b")` gives a, b."""
    for at in ancestors(node):
        if isinstance(at, (ast.For, ast.AsyncFor)) and isinstance(at.iter, (ast.Tuple, ast.List, ast.Set)):
            targets = [at.target] if isinstance(at.target, ast.Name) else getattr(at.target, "elts", [])
            for place, target in enumerate(targets):
                if isinstance(target, ast.Name) and target.id == name:
                    items = at.iter.elts
                    if not isinstance(at.target, ast.Name):
                        items = [i.elts[place] for i in items if isinstance(i, ast.Tuple) and len(i.elts) > place]
                    return [
                        item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)
                    ]
    return []


def literal_names(node: ast.AST | None) -> list[str]:
    """The attribute names that an expression spells: literal, f-string over a literal loop, loop variable."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.Name):
        return loop_names(node, node.id)
    if isinstance(node, ast.JoinedStr):
        found = [""]
        for part in node.values:
            if isinstance(part, ast.Constant):
                found = [text + str(part.value) for text in found]
            elif isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name):
                found = [text + name for text in found for name in loop_names(node, part.value.id)]
            else:
                return []
        return found
    return []


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _collect(function: Function, table: dict[str, Attribute]) -> None:
    for node in walk(function):
        if isinstance(node, ast.Attribute) and _is_self(node.value):
            entry = table.setdefault(node.attr, Attribute(node.attr))
            if isinstance(node.ctx, ast.Load):
                entry.reads.append(node)
            else:
                entry.writes.append((node, _value_of(node)))
        elif isinstance(node, ast.Call):
            _collect_call(node, table)


def _collect_call(call: ast.Call, table: dict[str, Attribute]) -> None:
    func, args = call.func, call.args
    if isinstance(func, ast.Name) and func.id == "setattr" and len(args) == 3 and _is_self(args[0]):
        name, value = args[1], args[2]
    elif isinstance(func, ast.Name) and func.id == "getattr" and len(args) >= 2 and _is_self(args[0]):
        return
    elif isinstance(func, ast.Attribute) and _is_self(func.value) and func.attr in _REGISTER:
        given = arguments(call)
        name = args[0] if args else given.get("name")  # type: ignore[assignment]
        value = args[1] if len(args) > 1 else given.get("param", given.get("tensor", given.get("module")))  # type: ignore[assignment]
    else:
        return
    for text in literal_names(name):
        table.setdefault(text, Attribute(text)).writes.append((call, value))


def _value_of(target: ast.AST) -> ast.expr | None:
    """The expression that a store target receives, or is a part of; through tuple targets, as far as written out."""
    above = parent(target)
    if isinstance(above, ast.Assign):
        return above.value
    if isinstance(above, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
        return above.value
    if isinstance(above, (ast.Tuple, ast.List)):
        whole = parent(above)
        if isinstance(whole, ast.Assign) and isinstance(whole.value, (ast.Tuple, ast.List)):
            place = above.elts.index(target)  # type: ignore[arg-type]
            return whole.value.elts[place] if place < len(whole.value.elts) else None
        if isinstance(whole, ast.Assign) and isinstance(whole.value, ast.Attribute):
            return whole.value  # `states, keys = self.cache`: a part of what is kept there
    return None


class Locals:
    """Where the local names of one function come from."""

    def __init__(self, function: Function | ast.Module):
        self.parameters = set() if isinstance(function, ast.Module) else {a.arg for a in parameters(function.args)}
        self.values: dict[str, list[ast.expr | None]] = {}
        for node in own_nodes(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.values.setdefault(node.id, []).append(_value_of(node))

    def value(self, name: str) -> ast.expr | None:
        """The one expression that a name is bound to; None when there are several or none."""
        found = self.values.get(name, [])
        return found[0] if len(found) == 1 and name not in self.parameters else None


def locals_of(node: ast.AST) -> Locals:
    """The local names visible at a node's function, cached on the function."""
    scope: ast.AST | None = node if isinstance(node, FUNCTIONS) else function_of(node)
    if scope is None:
        scope = next(at for at in [node, *ancestors(node)] if isinstance(at, ast.Module))
    known: Locals | None = scope.__dict__.get("_locals")
    if known is None:
        known = scope.__dict__["_locals"] = Locals(scope)  # type: ignore[arg-type]
    return known
