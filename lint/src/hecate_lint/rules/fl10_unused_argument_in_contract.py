"""FL-10: a knob that is accepted and never read."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import Function, class_of, parent, walk
from hecate_lint.model import Hit
from hecate_lint.names import parameters
from hecate_lint.rule import Rule
from hecate_lint.syntax import decorators, only_statement_is


class UnusedArgumentInContract(Rule):
    """A constructor or a registered factory takes an argument that it never reads.

    SMELL. `def __init__(self, channels)` of a class, or a function under a register decorator, whose body never
    mentions a parameter and passes no `**kwargs` on.

    WHY. The user sets the knob and nothing changes: two runs that differ in it are the same run.

    FIX. Use it, drop it, or name it `_channels` when a protocol demands it.

    TRACE. Fail-loud rule FL-10.
    """

    id = "FL-10"
    name = "unused-argument-in-contract"
    group = "fail-loud"
    severity = "info"
    why = "the user turns the knob and nothing changes"
    mend = "use it, drop it, or start its name with an underscore"

    VALID = """
class Noop(nn.Module):
    def __init__(self, _channels):
        super().__init__()
# ---
class Base:
    def make(self, dim):
        raise NotImplementedError
# ---
class Base(abc.ABC):
    @abc.abstractmethod
    def __init__(self, dim): ...
# ---
@register_rule("x")
def make(dim, **kwargs):
    return Rule(dim=dim, **kwargs)
# ---
class A:
    def __init__(self, dim, *args):
        self.dim = dim
# ---
class B(A):
    def __init__(self, dim, heads):
        super().__init__(**locals())
"""
    INVALID = """
class Noop(nn.Module):
    def __init__(self, channels):  # <-
        super().__init__()
# ---
@register_rule("x")
def make(dim, lr):  # <-
    return Rule(dim)
# ---
class A:
    def __init__(self, dim, *, bias=True):  # <-
        self.dim = dim
# ---
@registry.register
def build(width, depth):  # <-
    return [width]
# ---
class Gate:
    def __init__(self, low, high, start=0.5):  # <-
        self.range = (low, high)
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        for function in file.index.functions:
            is_constructor = function.name == "__init__" and isinstance(parent(function), ast.ClassDef)
            registered = (
                any(word.startswith("register") for word in decorators(function)) and class_of(function) is None
            )
            if not (is_constructor or registered) or _is_signature_only(function):
                continue
            read = {n.id for stmt in function.body for n in walk(stmt) if isinstance(n, ast.Name)}
            if "locals" in read or "vars" in read:
                continue
            given = [a for a in parameters(function.args) if a not in (function.args.vararg, function.args.kwarg)]
            lost = [
                a.arg for a in given if a.arg not in read and not a.arg.startswith("_") and a.arg not in ("self", "cls")
            ]
            if lost and not _comes_from_a_base(function):
                shown = ", ".join(f"`{name}`" for name in lost)
                yield Hit(
                    function, f"{shown} of `{file.qualified(function)}` {'is' if len(lost) == 1 else 'are'} never read"
                )

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.FunctionDef()


def _is_signature_only(function: Function) -> bool:
    if any(word in ("abstractmethod", "overload", "property") for word in decorators(function)):
        return True
    return only_statement_is(function.body, ast.Raise, ast.Pass)


def _comes_from_a_base(function: Function) -> bool:
    """A star argument that is handed on may carry what the names do not."""
    return function.args.kwarg is not None and any(
        isinstance(n, ast.keyword) and n.arg is None for stmt in function.body for n in walk(stmt)
    )
