"""PT-10: a cache of tensors that only grows."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments, constant, split_words
from hecate_lint.index import FUNCTIONS, ancestors, function_of, parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_EVICTS = frozenset({"pop", "popitem", "clear", "move_to_end"})
_REGISTERS = frozenset({"register", "registry", "add", "install"})


class UnboundedCache(Rule):
    """A memo of tensors or kernels grows without limit.

    SMELL. A module- or class-level dict filled by `if k not in C: C[k] = ...` with nothing that evicts;
    `functools.cache` on a method, or on a function that returns tensors or compiled kernels.

    WHY. Every new shape, device or length stays in memory for the life of the process; on a method the cache
    keeps `self` too.

    FIX. `lru_cache(maxsize=8)`, or a cache that the object owns.

    TRACE. PyTorch rule PT-10.
    """

    id = "PT-10"
    name = "unbounded-cache"
    group = "torch"
    severity = "warn"
    why = "each new shape, device or length stays in memory for the life of the process"
    mend = "bound it: functools.lru_cache(maxsize=8), or a cache that the object owns"

    VALID = """
_WS = LRU(maxsize=8)
def ws(n):
    return _WS.get_or_make(n)
# ---
REGISTRY = {}
def register(name, fn):
    REGISTRY[name] = fn
# ---
@functools.lru_cache(maxsize=16)
def mask(n):
    return torch.ones(n)
# ---
@functools.cache
def version():
    return "1"
# ---
_WS = {}
def ws(n):
    if n not in _WS:
        _WS[n] = torch.empty(n)
    return _WS[n]
def clear():
    _WS.clear()
"""
    INVALID = """
_WS = {}
def ws(n):
    if n not in _WS:
        _WS[n] = torch.empty(n)  # <-
    return _WS[n]
# ---
class A:
    @functools.cache  # <-
    def mask(self, n): ...
# ---
from functools import lru_cache
@lru_cache(None)  # <-
def mask(n):
    return torch.ones(n).triu()
# ---
class Table:
    _rows = {}
    def row(self, n):
        if n not in self._rows:
            self._rows[n] = torch.arange(n)  # <-
        return self._rows[n]
# ---
_KERNELS = dict()
def kernel(name, arch):
    key = (name, arch)
    found = _KERNELS.get(key)
    if found is None:
        found = _KERNELS[key] = compile_kernel(name, arch)  # <-
    return found
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        for use in file.names.uses("functools.cache", "functools.lru_cache"):
            yield from self._decorator(file, use)
        for target in file.index.all(ast.Subscript):
            if isinstance(target.ctx, ast.Store) and isinstance(target.value, (ast.Name, ast.Attribute)):
                yield from self._memo(file, target)

    def _decorator(self, file: File, use: ast.AST) -> Iterator[Hit]:
        above = parent(use)
        call = above if isinstance(above, ast.Call) and above.func is use else None
        function = parent(call) if call is not None else above
        if not isinstance(function, FUNCTIONS) or (call or use) not in function.decorator_list:
            return
        if call is not None:
            size = call.args[0] if call.args else arguments(call).get("maxsize")
            if size is None or constant(size) is not None or not isinstance(size, ast.Constant):
                return  # lru_cache() has 128 entries; a number or a name is a bound
        elif last_word(use) == "lru_cache":
            return
        method = isinstance(parent(function), ast.ClassDef) and any(a.arg == "self" for a in function.args.args)
        if method or _makes_tensors(file, function):
            why = "keeps self and grows without limit" if method else "keeps every tensor or kernel it ever made"
            yield Hit(call or use, f"the cache of `{function.name}` {why}", "likely")

    def _memo(self, file: File, target: ast.Subscript) -> Iterator[Hit]:
        name = last_word(target.value)
        function = function_of(target)
        assign = next((a for a in ancestors(target) if isinstance(a, ast.stmt)), None)
        if function is None or not isinstance(assign, ast.Assign) or set(split_words(function.name)) & _REGISTERS:
            return
        if not self._is_shared_dict(file, target) or not _tested(function, name) or not _makes_tensors(file, assign):
            return
        for node in file.index.word(*_EVICTS):
            if isinstance(node, ast.Attribute) and last_word(node.value) == name:
                return
        if not any(isinstance(d, ast.Delete) and name in ast.unparse(d) for d in file.index.all(ast.Delete)):
            yield Hit(assign, f"`{name}` gains an entry for every new key and loses none", "likely")

    def _is_shared_dict(self, file: File, target: ast.Subscript) -> bool:
        """Whether the container is a dict of the module or of a class."""
        if isinstance(target.value, ast.Name):
            binders = file.names.bound(target.value) or []
            owners = (ast.Module,)
        else:
            name = last_word(target.value)
            binders = [
                a
                for a in file.index.all(ast.Assign)
                if any(isinstance(t, ast.Name) and t.id == name for t in a.targets)
            ]
            owners = (ast.ClassDef,)  # type: ignore[assignment]
        for binder in binders:
            value = getattr(binder, "value", None)
            if isinstance(parent(binder), owners) and (isinstance(value, ast.Dict) or last_word(value) == "dict"):
                return True
        return False

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Assign() | m.Name() | m.Attribute() | m.Call()


def _tested(function: ast.AST, name: str) -> bool:
    """`if k not in C` or `C.get(k)`: the function uses the dict as a memo."""
    for node in walk(function):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            if last_word(node.comparators[0]) == name:
                return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            if last_word(node.func.value) == name:
                return True
    return False


def _makes_tensors(file: File, node: ast.AST) -> bool:
    for call in walk(node):
        if isinstance(call, ast.Call):
            called = file.names.callee(call) or ""
            if called.startswith("torch.") and not called.startswith(("torch.cuda.", "torch.device", "torch.version")):
                return True
            if {"compile", "kernel", "load_inline"} & set(split_words(last_word(call))):
                return True
    return False
