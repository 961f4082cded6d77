"""Matchers that the core rules confirm their findings with, on the libcst tree; `m` is `libcst.matchers`."""

import ast
from collections.abc import Iterable
from typing import Any


def call_of(m: Any, node: ast.AST, **more: Any) -> Any:
    """A call of what this `ast` call is a call of, by its last identifier; any callee where it has none."""
    func = node.func if isinstance(node, ast.Call) else None
    word = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
    if not word:
        return m.Call(**more)
    named = m.Attribute(attr=m.Name(word)) if isinstance(func, ast.Attribute) else m.Name(word)
    return m.Call(func=named, **more)


def names(m: Any, words: Iterable[str]) -> Any:
    """A name that is one of these words."""
    wanted = frozenset(words)
    return m.Name(value=m.MatchIfTrue(lambda value: value in wanted))


def switched_on(m: Any, words: Iterable[str]) -> Any:
    """A keyword argument `word=True`."""
    return m.Arg(keyword=names(m, words), value=m.Name("True"))


def with_keyword(m: Any, word: str, value: Any = None) -> Any:
    """The arguments of a call that has this keyword, at any place."""
    given = m.Arg(keyword=m.Name(word)) if value is None else m.Arg(keyword=m.Name(word), value=value)
    return [m.ZeroOrMore(), given, m.ZeroOrMore()]
