"""KN-10: a specification that nobody worked through."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hecate_lint.facts import File
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

if TYPE_CHECKING:
    from hecate_lint.conformance.project import Project, Remark


class SpecWithoutExample(Rule):
    """A specification has no worked example with an assertion.

    SMELL. A file with a CONTRACT block and without a `## Worked example` that holds a `python` block with
    `assert`; a rule's spec that numbers no equation.

    WHY. An equation that was never worked through by hand hides a transposition or a sign until somebody's
    kernel follows it.

    FIX. Three tokens, small numbers, asserts; the tests execute it.

    TRACE. Kernel rule KN-10, part of spec conformance.
    """

    id = "KN-10"
    name = "spec-without-example"
    group = "kernels"
    severity = "error"
    why = "an equation that nobody worked through hides a sign until a kernel follows it"
    mend = "add a worked example of three tokens with asserts"

    VALID = """
x = 1
# ---
def f(): ...
# ---
text = "CONTRACT"
# ---
# CONTRACT
y = 2
# ---
class Spec: ...
"""
    over_project = True  # its invalid cases are packages: tests/test_conformance.py

    def judge(self, project: "Project") -> Iterator["tuple[File, Hit] | Remark"]:
        """Every spec that belongs to the project."""
        from hecate_lint.conformance.project import Remark

        for spec in project.specs:
            if spec.problem:
                continue
            if not spec.has_example:
                yield Remark(
                    spec.path, spec.line, f'the spec of {spec.kind} "{spec.name}" has no worked example with an assert'
                )
            if spec.kind == "rule" and not spec.equations:
                yield Remark(spec.path, spec.line, f'the spec of rule "{spec.name}" numbers no equation')

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.DoNotCare()
