"""KN-09: a citation of an equation or spec that is not there."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hecate_lint.facts import TESTS, File
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule

if TYPE_CHECKING:
    from hecate_lint.conformance.project import Project, Remark

_CITED = Pattern(
    r"(?P<path>specs/[\w./-]+\.md)(?:[,;:)\]`\s]+\(?Eqs?\.\s*\(?(?P<number>\d+)(?:[a-z]\b)?(?:\s*(?:to|-)\s*(?P<last>\d+))?)?"
)


class DanglingCitation(Rule):
    """Code cites a spec that does not exist, or an equation that the spec does not have.

    SMELL. The path of a spec followed by the number of an equation, in a docstring or comment, where the file
    is missing or numbers fewer equations.

    WHY. The reader follows the citation to decide who is right; a dangling one says that somebody renumbered
    and looked away.

    FIX. Cite the equation that is meant.

    TRACE. Kernel rule KN-09, part of spec conformance.
    """

    id = "KN-09"
    name = "dangling-citation"
    group = "kernels"
    severity = "error"
    why = "the reader follows the citation to decide who is right, and arrives nowhere"
    mend = "cite the equation that is meant, or number it in the spec"

    VALID = """
x = 1  # no citation
# ---
def f():
    return "spec.md"
# ---
y = 2  # Eq. 3
# ---
# see docs/guide.md
z = 3
# ---
spec = "rules/delta.md"
"""
    over_project = True  # its invalid cases are packages: tests/test_conformance.py

    def judge(self, project: "Project") -> Iterator["tuple[File, Hit] | Remark"]:
        """Every citation in the Python and CUDA files of the run."""
        from hecate_lint.conformance.project import Remark

        known = {_tail(spec.path): spec for spec in project.specs}
        if not known:
            return
        for path in [*project.files, *_kernels(project.files)]:
            if TESTS.search(path.replace(os.sep, "/")):
                continue  # tests write specs of their own
            text = _text(path)
            for match in _CITED.finditer(text) if "specs/" in text else ():
                cited = match["path"].partition("specs/")[2]
                line = text.count("\n", 0, match.start()) + 1
                spec = known.get(cited)
                if spec is None:
                    if not os.path.isfile(os.path.join(project.root, match["path"])):
                        yield Remark(path, line, f"`{match['path']}` does not exist", "likely")
                    continue
                for number in (match["number"], match["last"]):
                    if number is not None and int(number) not in spec.equations:
                        yield Remark(path, line, f"`{match['path']}` has no equation {number}")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.DoNotCare()


def _tail(path: str) -> str:
    return path.replace(os.sep, "/").rpartition("specs/")[2]


def _kernels(files: Any) -> list[str]:
    """CUDA sources beside the linted files."""
    found: set[str] = set()
    for folder in {os.path.dirname(path) or "." for path in files}:
        try:
            found |= {os.path.join(folder, name) for name in os.listdir(folder) if name.endswith((".cu", ".cuh"))}
        except OSError:
            continue
    return sorted(found)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
