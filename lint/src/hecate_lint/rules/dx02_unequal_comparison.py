"""DX-02: rows that are compared though they were not measured alike."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hecate_lint.documents import documents
from hecate_lint.facts import File
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.rules.dx01_bare_result_table import is_result

if TYPE_CHECKING:
    from hecate_lint.conformance.project import Project, Remark

_CIRCUMSTANCE = Pattern(
    r"^(batch( size)?|device|hardware|gpu|cpu|machine|precision|dtype|compiled?|hours|time budget|steps)$", re.I
)
_SAYS = Pattern(
    r"differ|not comparable|unequal|same (batch|device|hardware|machine|budget)|each row|per (device|batch|precision)"
    r"|by (device|batch)",
    re.I,
)


class UnequalComparison(Rule):
    """The rows of a comparison differ in batch, hardware, time or compilation, and the text does not say so.

    SMELL. A result table with a column for batch, device, precision or compilation whose values differ, in a
    section that says nothing about it.

    WHY. The reader takes the difference in the last column for the effect of the first.

    FIX. Measure alike, or say in one sentence what differs.

    TRACE. Document rule DX-02.
    """

    id = "DX-02"
    name = "unequal-comparison"
    group = "docs"
    severity = "warn"
    over_project = True
    why = "the reader takes the difference in the last column for the effect of the first"
    mend = "measure alike, or say in one sentence what differs"

    def judge(self, project: "Project") -> Iterator["tuple[File, Hit] | Remark"]:
        """Every result table of the documents in the settings."""
        from hecate_lint.conformance.project import Remark

        for document in documents(project.root, project.settings.documents):
            for table in document.tables():
                if not is_result(table) or _SAYS.search(table.section):
                    continue
                for number, cell in enumerate(table.header):
                    if number and _CIRCUMSTANCE.match(cell):
                        values = {row[number] for row in table.rows if number < len(row)}
                        if len(values) > 1:
                            message = f'the rows differ in "{cell}", and the text does not say so'
                            yield Remark(document.path, table.line, message, "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.DoNotCare()
