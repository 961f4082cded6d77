"""FL-07: a misspelt choice that ends in a bare KeyError."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, split_words
from hecate_lint.index import ancestors, function_of, walk
from hecate_lint.model import Hit
from hecate_lint.names import parameters
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_CHOICE = frozenset(
    "name kind type mode method backend optimizer optim activation act norm style scheduler model arch".split()
)


class BareLookupOfUserChoice(Rule):
    """A name that the user chose is looked up without a word about what there is.

    SMELL. `TABLE[name]` on a module-level mapping, where `name` is a parameter or a config field, with no
    membership test and no translation of the KeyError.

    WHY. A spelling mistake ends in `KeyError: 'dleta'`: neither the place nor the choices are told.

    FIX. Catch the KeyError and raise one that lists the choices.

    TRACE. Fail-loud rule FL-07.
    """

    id = "FL-07"
    name = "bare-lookup-of-user-choice"
    group = "fail-loud"
    severity = "info"
    why = "a spelling mistake ends in a bare KeyError that names neither the place nor the choices"
    mend = "raise an error that lists the choices"

    VALID = """
ATTN = {"a": 1}
def get_attention(name):
    try:
        return ATTN[name]
    except KeyError:
        raise ValueError(f"{name!r}: one of {sorted(ATTN)}") from None
# ---
ROWS = [1, 2]
def row(i):
    return ROWS[i]
# ---
ATTN = {"a": 1}
def get_attention(name):
    if name not in ATTN:
        raise ValueError(name)
    return ATTN[name]
# ---
def get(table, name):
    return table[name]
# ---
ATTN = {"a": 1}
first = ATTN["a"]
"""
    INVALID = """
def get_attention(name):
    return ATTN[name]  # <-
# ---
def build(cfg):
    return OPTIMS[cfg.optimizer](cfg)  # <-
# ---
ACT = {"relu": F.relu, "gelu": F.gelu}
class Mlp(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.act = ACT[activation]  # <-
# ---
NORMS = dict(layer=nn.LayerNorm)
def norm(kind, dim):
    return NORMS[kind](dim)  # <-
# ---
BACKENDS: dict = {}
def run(x, *, backend):
    return BACKENDS[backend](x)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        for node in file.index.all(ast.Subscript):
            table, key = node.value, node.slice
            if not (isinstance(table, ast.Name) and table.id.lstrip("_").isupper() and isinstance(node.ctx, ast.Load)):
                continue
            function = function_of(node)
            if function is None or not self._is_choice(key, {arg.arg for arg in parameters(function.args)}):
                continue
            if self._is_mapping(file, table) and not _is_guarded(node, table.id, function):
                yield Hit(node, f"`{ast.unparse(node)}` looks up a user's choice bare", "likely")

    def _is_choice(self, key: ast.expr, names: set[str]) -> bool:
        if isinstance(key, ast.Name):
            return key.id in names and bool(set(split_words(key.id)) & _CHOICE)
        if isinstance(key, ast.Attribute):
            return last_word(key.value) in ("cfg", "config", "args", "conf") and bool(
                set(split_words(key.attr)) & _CHOICE
            )
        return False

    def _is_mapping(self, file: File, table: ast.Name) -> bool:
        binders = file.names.bound(table)
        if binders is None:
            return True
        for binder in binders:
            value = getattr(binder, "value", None)
            if isinstance(value, ast.Dict) or last_word(value) in ("dict", "OrderedDict"):
                return True
        return False

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Subscript(value=m.Name())


def _is_guarded(node: ast.AST, table: str, function: ast.AST) -> bool:
    for at in ancestors(node):
        if isinstance(at, ast.Try) and any(
            "KeyError" in ast.unparse(h.type) for h in at.handlers if h.type is not None
        ):
            return True
        if at is function:
            break
    for test in walk(function):
        if isinstance(test, ast.Compare) and isinstance(test.ops[0], (ast.In, ast.NotIn)):
            if any(isinstance(n, ast.Name) and n.id == table for n in walk(test)):
                return True
    return False
