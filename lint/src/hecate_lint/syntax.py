"""Small questions about `ast` nodes that many rules ask."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import split_words
from hecate_lint.index import FUNCTIONS, LOOPS, Function, ancestors, function_of, own_nodes, parent, walk


def last_word(node: ast.AST | None) -> str:
    """The last identifier of a name, attribute chain or call: `a.b.c(x)` gives c."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def words_in(node: ast.AST) -> set[str]:
    """Every identifier below a node."""
    return {last_word(n) for n in walk(node) if isinstance(n, (ast.Name, ast.Attribute))}


def parts_in(node: ast.AST) -> set[str]:
    """Every word of every identifier below a node, split as `split_words` does."""
    return {part for word in words_in(node) for part in split_words(word)}


def loop_of(node: ast.AST) -> ast.AST | None:
    """The innermost loop around a node within its function."""
    for at in ancestors(node):
        if isinstance(at, LOOPS):
            return at
        if isinstance(at, FUNCTIONS):
            return None
    return None


def block_of(stmt: ast.stmt) -> list[ast.stmt]:
    """The statements of the block that a statement stands in."""
    above = parent(stmt)
    for name in ("body", "orelse", "finalbody"):
        block = getattr(above, name, None)
        if isinstance(block, list) and stmt in block:
            return block
    return [stmt]


def decorators(node: ast.AST) -> list[str]:
    """The last words of a definition's decorators."""
    return [last_word(decorator) for decorator in getattr(node, "decorator_list", [])]


def strings_in(node: ast.AST) -> Iterator[str]:
    """Every literal string below a node."""
    for at in walk(node):
        if isinstance(at, ast.Constant) and isinstance(at.value, str):
            yield at.value


def scope_nodes(node: ast.AST) -> list[ast.AST]:
    """The nodes of the function around a node, or of the module."""
    function: Function | None = function_of(node)
    if function is not None:
        return own_nodes(function)
    module = next((at for at in [node, *ancestors(node)] if isinstance(at, ast.Module)), None)
    return own_nodes(module) if module is not None else []


def only_statement_is(body: list[ast.stmt], *types: type[ast.stmt]) -> bool:
    """Whether a body, docstring and `...` aside, is one statement of these types."""
    real = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return not real or (len(real) == 1 and isinstance(real[0], types))
