"""FL-06: module-level state that functions change behind the caller's back."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, split_words
from hecate_lint.index import ancestors, function_of, parent
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_REGISTRY = frozenset("registry registries registered plugins handlers hooks backends table map mapping all".split())
_REGISTERS = frozenset("register add_backend install declare".split())
_MUTATES = frozenset("append add update pop clear setdefault remove extend insert popitem discard".split())


class HiddenGlobalState(Rule):
    """A function rebinds or mutates a module-level variable.

    SMELL. `global X` with an assignment; a module-level dict or list that functions write, outside a declared
    registry.

    WHY. Two models in one process share it, tests depend on their order, and a checkpoint does not contain it.

    FIX. Hold the state in an object that the caller owns, or make it a registry that is filled at import only.

    TRACE. Fail-loud rule FL-06.
    """

    id = "FL-06"
    name = "hidden-global-state"
    group = "fail-loud"
    severity = "warn"
    why = "two models in one process share it, tests depend on their order, and no checkpoint contains it"
    mend = "hold it in an object that the caller owns"

    VALID = """
REGISTRY: dict = {}
def register(n, o):
    REGISTRY[n] = o
# ---
LIMIT = 8
# ---
class Counter:
    def tick(self):
        self.n += 1
# ---
def f():
    cache = {}
    cache["a"] = 1
    return cache
# ---
_BACKENDS = {}
def add_backend(name, cls):
    _BACKENDS[name] = cls
# ---
TABLE = {}
TABLE["a"] = 1
def f(TABLE):
    TABLE["b"] = 2
"""
    INVALID = """
_PG = None
def pg():
    global _PG  # <-
    _PG = _PG or make()
    return _PG
# ---
_STATE = {}
def tick(k):
    _STATE[k] = _STATE.get(k, 0) + 1  # <-
# ---
history = []
def note(x):
    history.append(x)  # <-
# ---
COUNT = 0
def count():
    global COUNT  # <-
    COUNT += 1
# ---
_LIVE = set()
class A:
    def __init__(self):
        _LIVE.add(id(self))  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test or file.is_script:
            return
        for statement in file.index.all(ast.Global):
            yield Hit(statement, f"`{', '.join(statement.names)}` of the module is rebound by a function")
        for name, node in self._mutations(file):
            if self._is_own_container(file, name) and not self._is_registry(name, node):
                yield Hit(node, f"`{name.id}` of the module is changed by a function", "likely")

    def _mutations(self, file: File) -> Iterator[tuple[ast.Name, ast.AST]]:
        for target in file.index.all(ast.Subscript):
            above = parent(target)
            if isinstance(above, (ast.Assign, ast.AugAssign)) and isinstance(target.ctx, ast.Store):
                if isinstance(target.value, ast.Name):
                    yield target.value, above
        for node in file.index.word(*_MUTATES):
            call = parent(node)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and isinstance(call, ast.Call):
                if call.func is node:
                    yield node.value, call

    def _is_own_container(self, file: File, name: ast.Name) -> bool:
        if function_of(name) is None:
            return False
        binders = file.names.bound(name) or []
        for binder in binders:
            if not (isinstance(binder, (ast.Assign, ast.AnnAssign)) and isinstance(parent(binder), ast.Module)):
                return False
            value = binder.value
            made = isinstance(value, (ast.Dict, ast.List, ast.Set)) or last_word(value) in (
                "dict",
                "list",
                "set",
                "defaultdict",
                "OrderedDict",
                "deque",
                "Counter",
            )
            if not made:
                return False
        return bool(binders)

    def _is_registry(self, name: ast.Name, node: ast.AST) -> bool:
        if set(split_words(name.id)) & _REGISTRY:
            return True
        functions = [at.name for at in ancestors(node) if isinstance(at, (ast.FunctionDef, ast.AsyncFunctionDef))]
        return any(set(split_words(f)) & _REGISTERS or f in _REGISTERS for f in functions)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Global() | m.Assign() | m.AugAssign() | m.Call()
