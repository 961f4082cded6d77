"""The base of every lint rule: what it is called, when it looks, what it sees and how it mends.

A rule is one file. Its docstring is its documentation page (SMELL, WHY, FIX, TRACE), its `VALID` and `INVALID` blocks
are its tests: cases separated by `# ---`, each line that must be reported marked with `# <-`.
"""

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from hecate_lint.facts import File
from hecate_lint.model import Hit, Severity

if TYPE_CHECKING:
    import libcst as cst

NOTHING: frozenset[str] = frozenset()


class Rule:
    """One smell. Subclasses say `nominate` (cheap, on `ast`) and `pattern` (libcst matcher that confirms)."""

    id: ClassVar[str] = ""
    also: ClassVar[tuple[str, ...]] = ()  # further smells of the catalogue that this rule sees
    name: ClassVar[str] = ""
    group: ClassVar[str] = "core"
    severity: ClassVar[Severity] = "error"
    default: ClassVar[bool] = True  # False: only when selected
    fix_kind: ClassVar[str] = "none"  # none, safe or unsafe
    words: ClassVar[frozenset[str]] = NOTHING  # a file with none of these identifiers is not looked at; empty: all are
    over_project: ClassVar[bool] = False  # sees packages and documents only; its cases are packages of the tests
    why: ClassVar[str] = ""  # one sentence: why it matters
    mend: ClassVar[str] = ""  # the shortest mend
    VALID: ClassVar[str] = ""
    INVALID: ClassVar[str] = ""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Places in the file that look like the smell."""
        return iter(())

    def pattern(self, m: Any, hit: Hit) -> Any:
        """The libcst matcher (`m` is `libcst.matchers`) that the node at a hit must satisfy."""
        raise NotImplementedError(f"{type(self).__name__}.pattern is still to write: the matcher of a place")

    def confirm(self, node: "cst.CSTNode", hit: Hit) -> bool:
        """A last look at the libcst node, after `pattern` matched."""
        return True

    def fix(self, node: "cst.CSTNode", hit: Hit) -> "cst.CSTNode | str | None":
        """What to write in place of the node: a node, its code, or None for no fix here."""
        return None


def cases(block: str) -> list[str]:
    """The cases of a VALID or INVALID block."""
    return [case.strip("\n") + "\n" for case in block.split("\n# ---\n") if case.strip()]


def marked(case: str) -> list[int]:
    """The line numbers of a case that carry the `# <-` marker."""
    return [number for number, line in enumerate(case.splitlines(), 1) if "# <-" in line]


def header_words(rule: Rule) -> str:
    """`CS-39 unclamped-learned-decay`, as messages and pages show it."""
    return f"{rule.id} {rule.name}"


def location(node: ast.AST) -> tuple[int, int]:
    """Line and byte column of a node, (1, 0) for one that has none."""
    return getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
