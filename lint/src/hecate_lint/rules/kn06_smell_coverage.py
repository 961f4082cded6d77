"""KN-06: a lint rule that is not finished, or has no smell."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.conformance.smells import SMELLS
from hecate_lint.facts import File, constant
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_CATALOGUE = Pattern(r"^(CS|PT|FL|KN|DX)-\d\d$")


class SmellCoverage(Rule):
    """A lint rule lacks its page, its examples or its place in the catalogue.

    SMELL. A `LintRule` or `Rule` subclass with an id and no docstring, no group or severity, fewer than two
    valid or invalid examples, or an id in the catalogue's form that the catalogue does not have.

    WHY. A rule without examples is not tested, and one without a page is suppressed by whoever meets it first.

    FIX. Complete it; `hecate-lint --self-check` looks at the installed rules.

    TRACE. Kernel rule KN-06; docs/lint-coverage.md is generated from the same table.
    """

    id = "KN-06"
    name = "smell-coverage"
    group = "kernels"
    severity = "error"
    words = frozenset({"LintRule", "Rule"})
    why = "a rule without examples is not tested, and one without a page is suppressed by whoever meets it"
    mend = "give it a docstring, group, severity and two examples of each kind"

    VALID = """
class R(LintRule):
    "Why in-place is wrong."
    id, group, severity = "CS-47", "core", "error"
    INVALID, VALID = ["a", "b"], ["c", "d"]
# ---
REVIEW_ONLY = {"CS-29": "runtime probe"}
# ---
class Base(LintRule):
    pass
# ---
class R(LintRule):
    "Another family of ids is its owner's affair."
    id = "ACME-1"
    group = "core"
    severity = "warn"
    VALID = VALID_CASES
    INVALID = INVALID_CASES
# ---
class Other(Rule2):
    id = "CS-99"
"""
    INVALID = """
class R(LintRule):  # <-
    id = "CS-47"
    INVALID = ["x.add_(1)"]
    VALID = []
# ---
class R(LintRule):  # <-
    id = "CS-99"
# ---
class R(LintRule):  # <-
    "A page."
    id, group, severity = "CS-01", "core", "error"
    INVALID, VALID = ["a"], ["c", "d"]
# ---
from hecate_lint.rule import Rule
class R(Rule):  # <-
    id = "PT-01"
    group = "torch"
    severity = "warn"
    VALID = INVALID = "a"
# ---
class R(LintRule):  # <-
    "A page."
    id = "FL-01"
    VALID, INVALID = ["a", "b"], ["c", "d"]
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for cls in file.index.all(ast.ClassDef):
            if any(
                last_word(base) == "LintRule" or file.names.resolve(base) == "hecate_lint.rule.Rule"
                for base in cls.bases
            ):
                values = _values(cls)
                rule = constant(values.get("id"))
                if isinstance(rule, str):
                    lacks = list(_lacks(cls, values, rule))
                    if lacks:
                        yield Hit(cls, f"rule {rule} {', '.join(lacks)}")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.ClassDef()


def _values(cls: ast.ClassDef) -> dict[str, ast.expr]:
    """Class attributes by name, tuple assignments taken apart."""
    found: dict[str, ast.expr] = {}
    for item in cls.body:
        if isinstance(item, ast.Assign):
            for target in item.targets:
                if isinstance(target, ast.Tuple) and isinstance(item.value, ast.Tuple):
                    found.update({last_word(t): v for t, v in zip(target.elts, item.value.elts, strict=False)})
                else:
                    found[last_word(target)] = item.value
        elif isinstance(item, ast.AnnAssign) and item.value is not None:
            found[last_word(item.target)] = item.value
    return found


def _lacks(cls: ast.ClassDef, values: dict[str, ast.expr], rule: str) -> Iterator[str]:
    if _CATALOGUE.match(rule) and rule not in SMELLS:
        yield "is in no catalogue"
    if ast.get_docstring(cls) is None:
        yield "has no page"
    for name in ("group", "severity"):
        if name not in values:
            yield f"has no {name}"
    if "over_project" in values:
        return  # sees whole packages: its cases are packages, which the tests hold
    for name in ("VALID", "INVALID"):
        count = _count(values.get(name))
        if count is not None and count < 2:
            yield f"has {count} {name} examples"


def _count(node: ast.expr | None) -> int | None:
    if node is None:
        return 0
    if isinstance(node, (ast.List, ast.Tuple)):
        return len(node.elts)
    text = constant(node)
    return len(text.split("\n# ---\n")) if isinstance(text, str) else None
