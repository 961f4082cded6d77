"""DX-01: numbers without the circumstances that made them."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hecate_lint.documents import Table, documents
from hecate_lint.facts import File
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule

if TYPE_CHECKING:
    from hecate_lint.conformance.project import Project, Remark

RESULT = Pattern(
    r"tok(ens?)?\s*(/|per)\s*\S*s|\bms\b|\u00b5s|\bus\b|speed-?up|throughput|tflops|gb/s|bits per byte"
    r"|\bbpb\b|perplexity",
    re.I,
)
_NEEDS = {
    "hardware": Pattern(r"\b(gpu|cpu|h100|h200|a100|b200|rtx|v100|tpu|cores?|machine|xeon|epyc|apple m\d)\b", re.I),
    "precision": Pattern(r"float(16|32|64)|bf16|bfloat16|fp(8|16|32|64)|precision|dtype", re.I),
    "batch": Pattern(r"\bbatch|\bB\s*=|sequences? of|context|T\s*=?\s*\d", re.I),
    "commit": Pattern(r"\bcommit\b|\b[0-9a-f]{7,40}\b|benchmarks?/|make bench", re.I),
    "versions": Pattern(r"torch\s*[=v]*\s*\d|version|CUDA \d", re.I),
    "compiled or eager": Pattern(r"compile|eager|nvrtc|triton|reference backend|host backend", re.I),
}


class BareResultTable(Rule):
    """A table of measurements does not say what it was measured on.

    SMELL. A Markdown table with tokens per second, milliseconds or a loss per byte whose section and document
    name no hardware, precision, batch, commit, library versions, or whether the code was compiled.

    WHY. Without them the number can be neither repeated nor compared, and it will be compared all the same.

    FIX. One line under the table: device, precision, batch, commit, versions, compiled or eager.

    TRACE. Document rule DX-01.
    """

    id = "DX-01"
    name = "bare-result-table"
    group = "docs"
    severity = "warn"
    over_project = True
    why = "the number can be neither repeated nor compared, and it will be compared all the same"
    mend = "say device, precision, batch, commit, versions, and compiled or eager, in one line beside the table"

    def judge(self, project: "Project") -> Iterator["tuple[File, Hit] | Remark"]:
        """Every result table of the documents in the settings."""
        from hecate_lint.conformance.project import Remark

        for document in documents(project.root, project.settings.documents):
            for table in document.tables():
                if is_result(table):
                    lacks = [name for name, pattern in _NEEDS.items() if not pattern.search(table.section)]
                    if lacks:
                        yield Remark(
                            document.path,
                            table.line,
                            f"this table of results does not say: {', '.join(lacks)}",
                            "likely",
                        )

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.DoNotCare()


def is_result(table: Table) -> bool:
    """Whether a table holds measurements: a unit in its header, and numbers below it."""
    columns = [n for n, cell in enumerate(table.header) if RESULT.search(cell)]
    numbers = [row for row in table.rows if any(n < len(row) and re.search(r"\d", row[n]) for n in columns)]
    return bool(columns) and len(numbers) >= 2
