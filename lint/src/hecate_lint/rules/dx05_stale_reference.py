"""DX-05: a document that names what is no longer there."""

import ast
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hecate_lint.conformance import registered
from hecate_lint.documents import documents
from hecate_lint.facts import File
from hecate_lint.index import FUNCTIONS
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule

if TYPE_CHECKING:
    from hecate_lint.conformance.project import Project, Remark

_PATH = Pattern(r"^(?:\./)?([\w.-]+/)+[\w.-]+\.(py|md|cu|cuh|toml|sh|yml|yaml|cpp)$")
_FILES = (".py", ".md", ".toml", ".json", ".txt", ".cu", ".cuh", ".cpp", ".sh", ".yml", ".yaml", ".safetensors")
_DOTTED = Pattern(r"^[a-z_]\w*(\.[A-Za-z_]\w*)+$")


class StaleReference(Rule):
    """A document names a file or symbol that does not exist.

    SMELL. `path/to/file.py` or `package.module.Name` in a code span of the documents, where the path's first
    folder or the package is part of this project and the rest is not there.

    WHY. The reader looks for it, finds nothing, and stops trusting the page.

    FIX. Name what exists.

    TRACE. Document rule DX-05.
    """

    id = "DX-05"
    name = "stale-reference"
    group = "docs"
    severity = "warn"
    over_project = True
    why = "the reader looks for it, finds nothing, and stops trusting the page"
    mend = "name what exists, or remove the reference"

    def judge(self, project: "Project") -> Iterator["tuple[File, Hit] | Remark"]:
        """Every code span of the documents in the settings."""
        from hecate_lint.conformance.project import Remark

        roots = sorted({registered.source_root(path) for path in project.files if path.endswith(".py")})
        for document in documents(project.root, project.settings.documents):
            for line, text in document.spans():
                if _PATH.match(text) and self._path_gone(project.root, document.path, text):
                    yield Remark(document.path, line, f"`{text}` does not exist", "likely")
                elif _DOTTED.match(text) and not text.endswith(_FILES):
                    if self._symbol_gone(roots, text):
                        yield Remark(document.path, line, f"`{text}` does not exist", "likely")

    def _path_gone(self, root: str, document: str, text: str) -> bool:
        first = text.removeprefix("./").split("/")[0]
        if not os.path.isdir(os.path.join(root, first)):
            return False  # somebody else's tree, or an example of one
        return not any(os.path.exists(os.path.join(base, text)) for base in (root, os.path.dirname(document)))

    def _symbol_gone(self, roots: list[str], text: str) -> bool:
        parts = text.split(".")
        if not registered.locate(parts[0], roots):
            return False
        for length in range(len(parts), 0, -1):
            path = registered.locate(".".join(parts[:length]), roots)
            if path:
                rest = parts[length:]
                return bool(rest) and not _defines(registered.load(path), rest[0])
        return False

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.DoNotCare()


def _defines(file: File | None, name: str) -> bool:
    """Whether a module binds a name; a module that makes its names lazily is believed."""
    if file is None or "__getattr__" in file.index.words or any(a.name == "*" for a in file.index.all(ast.alias)):
        return True
    names = {node.name for node in file.tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef))}
    names |= {alias.asname or alias.name for alias in file.index.all(ast.alias)}
    names |= {node.id for node in file.index.all(ast.Name) if not isinstance(node.ctx, ast.Load)}
    return name in names
