"""One walk over a file's `ast`: parents, nodes by type, identifiers by name, scopes.

Every rule reads the same index, so that one more rule costs the few nodes that carry its words.
"""

import ast
from collections.abc import Iterator
from typing import Any, TypeVar

Node = TypeVar("Node", bound=ast.AST)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef | ast.Module

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.Module)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)

# Fields that hold no node a rule asks for: contexts, operators and plain values.
_PLAIN = {"ctx", "op", "ops", "id", "attr", "arg", "level", "module", "simple", "conversion", "type_comment", "kind"}
_FIELDS: dict[Any, tuple[str, ...]] = {
    cls: tuple(field for field in cls._fields if field not in _PLAIN or (cls is ast.ExceptHandler and field == "type"))
    for cls in vars(ast).values()
    if isinstance(cls, type) and issubclass(cls, ast.AST)
}


def parent(node: ast.AST) -> ast.AST | None:
    """The node that holds this one; None for the module."""
    found: ast.AST | None = node.__dict__.get("_parent")
    return found


def ancestors(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes around this one, innermost first."""
    at = parent(node)
    while at is not None:
        yield at
        at = parent(at)


def statement(node: ast.AST) -> ast.stmt | ast.ExceptHandler | ast.match_case | None:
    """The innermost statement (or handler, or case) that this node is or stands in."""
    at: ast.AST | None = node
    while at is not None:
        if isinstance(at, STATEMENTS):
            return at
        at = parent(at)
    return None


def function_of(node: ast.AST) -> Function | None:
    """The innermost enclosing function, lambdas not counted."""
    return next((at for at in ancestors(node) if isinstance(at, FUNCTIONS)), None)


def class_of(node: ast.AST) -> ast.ClassDef | None:
    """The innermost enclosing class, also from inside its methods."""
    return next((at for at in ancestors(node) if isinstance(at, ast.ClassDef)), None)


def own_nodes(scope: ast.AST) -> list[ast.AST]:
    """The nodes of a scope in source order, without those of functions and classes inside it."""
    known: list[ast.AST] | None = scope.__dict__.get("_own")
    if known is None:
        known = []
        stack = _children(scope)[::-1]
        while stack:
            node = stack.pop()
            known.append(node)
            cls = node.__class__
            if cls is ast.Name or cls is ast.Constant or cls in _DEFINITIONS:
                continue
            stack.extend(_children(node)[::-1])
        scope.__dict__["_own"] = known
    return known


def walk(node: ast.AST) -> list[ast.AST]:
    """As `ast.walk`, several times faster: no contexts, no operators."""
    found = [node]
    for at in found:
        for field in _FIELDS[at.__class__]:
            value = getattr(at, field, None)
            if value.__class__ is list:
                found += [item for item in value if item is not None and not isinstance(item, str)]
            elif isinstance(value, ast.AST):
                found.append(value)
    return found


def descendants(node: ast.AST) -> Iterator[ast.AST]:
    """The node itself and everything below it, in source order."""
    stack = [node]
    while stack:
        at = stack.pop()
        yield at
        stack.extend(_children(at)[::-1])


def _children(node: ast.AST) -> list[ast.AST]:
    found: list[ast.AST] = []
    for field in _FIELDS[node.__class__]:
        value = getattr(node, field, None)
        if value.__class__ is list:
            found += [item for item in value if isinstance(item, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


class Index:
    """Nodes of one module by type and identifier, in source order within each list."""

    def __init__(self, tree: ast.Module):
        self.tree = tree
        self._by_type: dict[type, list[ast.AST]] = {}
        self._walk()
        self._by_word: dict[str, list[ast.Name | ast.Attribute]] = {}
        for name in self.all(ast.Name):
            self._by_word.setdefault(name.id, []).append(name)
        for attribute in self.all(ast.Attribute):
            self._by_word.setdefault(attribute.attr, []).append(attribute)

    def _walk(self) -> None:
        # The one hot loop: explicit stack, because depth is the attacker's to choose.
        by_type, fields = self._by_type, _FIELDS
        stack: list[ast.AST] = [self.tree]
        while stack:
            node = stack.pop()
            cls = node.__class__
            if cls in by_type:
                by_type[cls].append(node)
            else:
                by_type[cls] = [node]
            for field in fields[cls][::-1]:
                value: Any = getattr(node, field, None)
                if value.__class__ is list:
                    for item in value[::-1]:
                        if item.__class__ in fields:
                            item._parent = node
                            stack.append(item)
                elif value.__class__ in fields:
                    value._parent = node
                    stack.append(value)

    def all(self, *types: type[Node]) -> list[Node]:
        """Every node of exactly these types."""
        if len(types) == 1:
            return self._by_type.get(types[0], [])  # type: ignore[return-value]
        found: list[Any] = []
        for cls in types:
            found += self._by_type.get(cls, [])
        return found

    def word(self, *words: str) -> list[ast.Name | ast.Attribute]:
        """Names and attributes whose last identifier is one of these words."""
        if len(words) == 1:
            return self._by_word.get(words[0], [])
        return [node for word in words for node in self._by_word.get(word, [])]

    @property
    def functions(self) -> list[Function]:
        """Every function and method, nested ones too."""
        return [*self.all(ast.FunctionDef), *self.all(ast.AsyncFunctionDef)]

    @property
    def words(self) -> set[str]:
        """Every identifier that the file reads, writes, defines or imports, keywords of calls included."""
        found = set(self._by_word)
        found.update(keyword.arg for keyword in self.all(ast.keyword) if keyword.arg)
        found.update(node.name for node in (*self.functions, *self.all(ast.ClassDef)))
        found.update(arg.arg for arg in self.all(ast.arg))
        for name in self.all(ast.alias):
            found.update(name.name.split("."))
        return found
