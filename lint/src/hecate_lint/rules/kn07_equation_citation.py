"""KN-07: an algorithm that does not say where it comes from."""

import ast
import os
import re
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import FUNCTIONS, parent
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import decorators, only_statement_is

_CITES = Pattern(
    r"\[\d{4}\.\d{4,5}\]|arxiv|\bEqs?\.\s*\(?\d|\bAlg(orithm)?\.?\s*\d|\bSec(tion)?\.?\s*\d|\bderived\b|\bSource:|\bSpec:|specs/",
    re.I,
)

_PAPER = Pattern(r"\b\d{4}\.\d{4,5}\b")


class EquationCitation(Rule):
    """A public function of an algorithmic package cites no source.

    SMELL. A public function, class or method with more than a signature whose docstring names no `[arXiv id]
    Eq. n`, `Alg. n`, `Sec. n`, spec or `derived: ...`; a module docstring that cites counts for its functions. With
    `bibliography = "file"` in the settings: a docstring that cites an arXiv id which that file does not list.

    WHY. Papers use the same letters for different things: without the equation nobody can say which sign is a
    bug.

    FIX. `Source: [2501.00663] Eq. 10.`, or `derived: ...` for one's own.

    TRACE. Kernel rule KN-07. Off until selected; `algorithmic = ["path/*"]` in the settings says which paths.
    """

    id = "KN-07"
    name = "equation-citation"
    group = "kernels"
    severity = "warn"
    default = False
    why = "papers use the same letters for different things: without the equation nobody knows which sign is the bug"
    mend = "cite it in the docstring: Source: [arXiv id] Eq. n, or derived: ..."

    VALID = '''
def surprise(m, g, eta):
    """Momentum of the surprise. Source: [2501.00663] Eq. 10."""
    return eta * m + g
# ---
def _helper(w): return w
# ---
"""Delta rule. Spec: specs/rules/delta.md, Eq. 1."""
def delta(m, k, v):
    """One step."""
    return m + (v - m @ k) @ k.T
# ---
class Rule:
    """Derived: from the limit of many steps."""
    def step(self, m):
        return m
    @property
    def width(self):
        return 4
# ---
class Marker:
    """A record."""
    width: int
'''
    INVALID = '''
def surprise(m, g, eta):  # <-
    """Momentum of the surprise."""
    return eta * m + g
# ---
def retain(w, a):  # <-
    return (1 - a) * w
# ---
class Rule:  # <-
    """A rule."""
    def step(self, m, g):
        return m - g
# ---
"""Momentum."""
def step(m, g):  # <-
    """One step along g."""
    return m - g
# ---
async def read(m, q):  # <-
    """Read."""
    return m @ q
'''

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test or not self._covers(file):
            return
        yield from self._unlisted(file)
        module = ast.get_docstring(file.tree) or ""
        if _CITES.search(module):
            return
        for node in file.tree.body:
            if isinstance(node, FUNCTIONS) and not node.name.startswith("_") and not _cites(node):
                if not only_statement_is(node.body, ast.Raise, ast.Pass) and "overload" not in decorators(node):
                    yield Hit(node, f"`{node.name}` cites no source")
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not _cites(node):
                methods = [item for item in node.body if isinstance(item, FUNCTIONS) and _is_algorithm(item)]
                if methods and not all(map(_cites, methods)):
                    yield Hit(node, f"`{node.name}` cites no source")

    def _unlisted(self, file: File) -> Iterator[Hit]:
        """Papers that a docstring cites and the bibliography of the settings does not list."""
        listed = file.settings.listed if file.settings is not None else None
        if listed is None:
            return
        for node in [*file.index.functions, *file.index.all(ast.ClassDef)]:
            for paper in _PAPER.compiled.findall(ast.get_docstring(node) or ""):
                if paper not in listed:
                    yield Hit(node, f"`{node.name}` cites {paper}, which the bibliography does not list")

    def _covers(self, file: File) -> bool:
        globs = file.settings.algorithmic if file.settings is not None else ()
        if not globs:
            return True
        import fnmatch

        path = (
            os.path.relpath(os.path.abspath(file.path), file.settings.root).replace(os.sep, "/")
            if file.settings
            else ""
        )
        return any(fnmatch.fnmatchcase(path, glob) for glob in globs)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.FunctionDef() | m.ClassDef()


def _cites(node: Any) -> bool:
    return bool(_CITES.search(ast.get_docstring(node) or ""))


def _is_algorithm(method: Any) -> bool:
    """A method that computes: public, no property, no dunder."""
    return not method.name.startswith("_") and "property" not in decorators(method) and parent(method) is not None
