"""DX-03: lists that must name the same things and do not."""

import ast
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hecate_lint.facts import File
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

if TYPE_CHECKING:
    from hecate_lint.conformance.project import Project, Remark


class ListsOutOfStep(Rule):
    """Two registries that the settings declare equal differ.

    SMELL. A pair under `[[tool.hecate.lint.same]]` (`left = "a.py:STEPS"`, `right = "b.py:DESCRIPTIONS"`) whose
    keys or elements differ.

    WHY. A step that only one list knows runs without a description, or is described and never runs.

    FIX. Add the missing name, or derive one list from the other.

    TRACE. Document rule DX-03.
    """

    id = "DX-03"
    name = "lists-out-of-step"
    group = "docs"
    severity = "error"
    over_project = True
    why = "what only one of the lists knows runs undescribed, or is described and never runs"
    mend = "add the missing name, or derive one list from the other"

    def judge(self, project: "Project") -> Iterator["tuple[File, Hit] | Remark"]:
        """Every pair of the settings."""
        from hecate_lint.conformance.project import Remark

        for pair in project.settings.same:
            sides = [self._names(project, place) for place in (pair.left, pair.right)]
            for place, side in zip((pair.left, pair.right), sides, strict=True):
                if side is None:
                    path = os.path.join(project.root, place.partition(":")[0])
                    yield Remark(path, 1, f"`{place}` is no list, tuple, set or dict of literal names")
            left, right = sides
            if left is None or right is None or left[0] == right[0]:
                continue
            said = [f"only in {pair.left}: {', '.join(sorted(left[0] - right[0]))}"] if left[0] - right[0] else []
            said += [f"only in {pair.right}: {', '.join(sorted(right[0] - left[0]))}"] if right[0] - left[0] else []
            yield left[1], Hit(left[2], "; ".join(said))

    def _names(self, project: "Project", place: str) -> tuple[set[str], File, ast.AST] | None:
        path, _, name = place.partition(":")
        file = project.load(os.path.join(project.root, path))
        for node in file.tree.body if file is not None else ():
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and file is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(t, ast.Name) and t.id == name for t in targets):
                    value: Any = node.value
                    items = value.keys if isinstance(value, ast.Dict) else getattr(value, "elts", None)
                    if items is None:
                        return None
                    return {ast.unparse(i).strip("'\"") for i in items if i is not None}, file, node
        return None

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Assign() | m.AnnAssign()
