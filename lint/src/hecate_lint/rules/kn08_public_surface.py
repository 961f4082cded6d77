"""KN-08: `__all__` and the names that a package hands on."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word


class PublicSurface(Rule):
    """`__all__` lists other names than the module re-exports.

    SMELL. A module that re-exports names from its siblings and whose `__all__` lacks one of them, or lists one
    that it does not bind.

    WHY. `from package import *`, documentation and type checkers follow `__all__`; the rest is public by
    accident.

    FIX. Make both equal; `--fix` rewrites a literal list.

    TRACE. Kernel rule KN-08.
    """

    id = "KN-08"
    name = "public-surface"
    group = "kernels"
    severity = "info"
    fix_kind = "safe"
    words = frozenset({"__all__"})
    why = "documentation and type checkers follow __all__; a name that only one side has is public by accident"
    mend = "list exactly the names that the module hands on"

    VALID = """
from .a import A, B
__all__ = ["A", "B"]
# ---
from .a import _private
# ---
from .a import A, _helper
__all__ = ["A"]
# ---
import os
from torch import nn
def f(): ...
__all__ = ["f"]
# ---
from .a import *
__all__ = ["Anything"]
# ---
from .a import A
__all__ = ["A"] + more
# ---
from .a import A
def __getattr__(name): ...
__all__ = ["A", "Lazy"]
"""
    INVALID = """
from .a import A, B
__all__ = ["A"]  # <-
# ---
from .a import A
__all__ = ["A", "C"]  # <-
# ---
from .a import A as B
__all__ = ["A"]  # <-
# ---
from .a import A
from .b import helper
X = 1
__all__ = ("A", "X")  # <-
# ---
from . import plugin
__all__ = ["gone", "plugin"]  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        listed = [n for n in file.tree.body if isinstance(n, ast.Assign) and last_word(n.targets[0]) == "__all__"]
        if len(listed) != 1 or not isinstance(listed[0].value, (ast.List, ast.Tuple)) or _is_dynamic(file):
            return
        value = listed[0].value
        names = [item.value for item in value.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        if len(names) != len(value.elts):
            return
        handed, bound = _surface(file)
        is_package = not any(
            isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)) for n in file.tree.body
        )
        missing = sorted(handed - set(names)) if is_package else []
        extra = sorted(set(names) - bound)
        if missing or extra:
            said = [f"lacks {', '.join(missing)}"] if missing else []
            said += [f"lists {', '.join(extra)}, which nothing here binds"] if extra else []
            yield Hit(
                value,
                f"__all__ {' and '.join(said)}",
                fixable=value.lineno == value.end_lineno,
                data=(names, missing, extra),
            )

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.List() | m.Tuple()

    def fix(self, node: Any, hit: Hit) -> Any:
        names, missing, extra = hit.data
        kept = [name for name in names if name not in extra] + missing
        inside = ", ".join(f'"{name}"' for name in kept)
        return f"[{inside}]" if isinstance(hit.node, ast.List) else f"({inside}{',' if len(kept) == 1 else ''})"


def _is_dynamic(file: File) -> bool:
    """Star imports and a module `__getattr__` bind names that the text does not show."""
    stars = any(alias.name == "*" for alias in file.index.all(ast.alias))
    lazy = any(isinstance(n, ast.FunctionDef) and n.name == "__getattr__" for n in file.tree.body)
    grown = any(isinstance(n, ast.AugAssign) and last_word(n.target) == "__all__" for n in file.tree.body)
    return stars or lazy or grown or "globals" in file.index.words


def _surface(file: File) -> tuple[set[str], set[str]]:
    """Public names re-exported from siblings, and all names that the module binds."""
    handed: set[str] = set()
    bound: set[str] = set()
    for node in file.index.all(ast.ImportFrom):
        names = {alias.asname or alias.name for alias in node.names}
        bound |= names
        if node.level and node in file.tree.body:
            handed |= {name for name in names if not name.startswith("_")}
    bound |= {alias.asname or alias.name.split(".")[0] for n in file.index.all(ast.Import) for alias in n.names}
    bound |= {node.id for node in file.index.all(ast.Name) if not isinstance(node.ctx, ast.Load)}
    bound |= {node.name for node in (*file.index.functions, *file.index.all(ast.ClassDef))}
    return handed, bound
