"""What rules say and what readers get: groups, severities, confidences, hits and findings."""

import ast
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warn", "info"]
Confidence = Literal["certain", "likely", "possible"]

SEVERITIES: tuple[Severity, ...] = ("error", "warn", "info")
CONFIDENCES: tuple[Confidence, ...] = ("certain", "likely", "possible")
GROUPS = {
    "core": "mistakes of memory models: retention, state, differentiation, levels",
    "torch": "PyTorch use: private API, hot-path allocation, graph breaks",
    "fail-loud": "swallowed errors, silent fallbacks, effects at import",
    "kernels": "kernel pairs, and code against its specification",
    "docs": "reports, documents and lists that must agree",
    "strict-ontology": "the vocabulary of this field; off unless selected",
    "engine": "the linter's own findings: files it cannot read, suppressions",
}


class LintError(Exception):
    """Wrong use or configuration: one line, exit status 2."""


@dataclass(slots=True)
class Hit:
    """A nomination: where a rule sees its smell on the `ast`; reported once libcst confirms the place."""

    node: ast.AST
    message: str
    confidence: str = "certain"
    severity: str | None = None  # None: the rule's own
    why: str = ""  # empty: the rule's own sentence
    mend: str = ""
    fixable: bool = True  # a rule with a fix may hold it back here
    fix_kind: str = ""  # empty: the rule's own
    data: Any = None  # handed on to the rule's `fix`


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the characters start to end of the file's text."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One reported finding; lines and columns count from 1, columns in characters."""

    path: str
    line: int
    column: int
    end_line: int
    end_column: int
    rule: str
    name: str
    severity: Severity
    confidence: Confidence
    message: str
    why: str = ""
    mend: str = ""
    fix: str = "none"  # none, safe or unsafe
    edits: tuple[Edit, ...] = ()
    scope: str = ""  # qualified name of the enclosing definitions
    digest: str = ""  # of the normalised code line, for the baseline

    @property
    def fixable(self) -> bool:
        """Whether --fix or --unsafe-fixes can mend it."""
        return bool(self.edits)

    @property
    def order(self) -> tuple[str, int, int, str, str]:
        """The order in which findings are reported."""
        return (self.path, self.line, self.column, self.rule, self.message)

    def pack(self) -> dict[str, Any]:
        """Plain values for the cache and for the pipe from a worker."""
        plain = asdict(self)
        plain["edits"] = [[edit.start, edit.end, edit.text] for edit in self.edits]
        return plain

    @staticmethod
    def unpack(plain: dict[str, Any]) -> "Finding":
        """The finding that `pack` packed; raises on a record of another shape."""
        return Finding(**{**plain, "edits": tuple(Edit(*edit) for edit in plain["edits"])})
