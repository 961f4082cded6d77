"""FL-09: a failure that is printed and then returned as if it were a result."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import function_of, own_nodes, parent
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import block_of, last_word, strings_in

_FAILURE = Pattern(
    r"\b(missing|fail(ed|ure)?|error|invalid|cannot|could not|not found|nan|unable|abort|corrupt|unknown|no such)\b",
    re.I,
)
_PROMISES = Pattern(r"^(load|read|get|build|make|parse|create|compute|step|run_|forward|find|open|fetch|save|resolve)")


class ReportAndGoOn(Rule):
    """A function prints that it failed and returns normally.

    SMELL. `print("missing", p)` or `log.error(...)` followed by `return` or `return None` in a function that
    promised a result.

    WHY. The caller goes on with None or with a step that was not taken; the line is lost in the log.

    FIX. Raise; let the caller at the border print.

    TRACE. Fail-loud rule FL-09.
    """

    id = "FL-09"
    name = "report-and-go-on"
    group = "fail-loud"
    severity = "warn"
    why = "the caller goes on with nothing in its hands, and the printed line is lost in the log"
    mend = "raise an error that says the same; print it at the border"

    VALID = """
def load(p):
    if not p.exists():
        raise FileNotFoundError(p)
# ---
def main():
    print("done")
    return 0
# ---
def load(p):
    if p in CACHE:
        print("cached", p)
        return CACHE[p]
# ---
def main(argv):
    if not argv:
        print("error: no arguments")
        return None
# ---
def on_failure(e):
    print("failed", e)
    return
"""
    INVALID = """
def load(p):
    if not p.exists():
        print("missing", p)  # <-
        return None
# ---
def step(g):
    if not g.isfinite().all():
        log.error("nan")  # <-
        return
# ---
def read_config(path):
    try:
        return parse(path)
    except OSError as e:
        logger.error("cannot read %s: %s", path, e)  # <-
        return None
# ---
class Store:
    def get(self, key):
        if key not in self.rows:
            logging.error(f"unknown key {key}")  # <-
            return False
        return self.rows[key]
# ---
def build_index(rows):
    if not rows:
        print("could not build the index")  # <-
        return -1
    return sorted(rows)
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test or file.is_script:
            return
        for stmt in file.index.all(ast.Return):
            if not _is_empty(stmt.value):
                continue
            block = block_of(stmt)
            before = block[block.index(stmt) - 1] if block.index(stmt) else None
            call = before.value if isinstance(before, ast.Expr) else None
            function = function_of(stmt)
            if not isinstance(call, ast.Call) or function is None or not _tells_failure(call):
                continue
            if parent(stmt) is not function and self._promises(function):
                yield Hit(call, f"`{function.name}` reports a failure and returns as if nothing were wrong", "likely")

    def _promises(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        """Whether callers expect something: by the name, or because another path returns a value."""
        if function.name == "main":
            return False
        returns = [n for n in own_nodes(function) if isinstance(n, ast.Return) and not _is_empty(n.value)]
        return bool(returns) or bool(_PROMISES.search(function.name))

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call()


def _is_empty(value: ast.expr | None) -> bool:
    if isinstance(value, ast.UnaryOp) and isinstance(value.operand, ast.Constant):
        return value.operand.value == 1
    return value is None or (isinstance(value, ast.Constant) and (value.value is None or value.value is False))


def _tells_failure(call: ast.Call) -> bool:
    word = last_word(call)
    if word in ("error", "critical", "exception"):
        return True
    return word == "print" and any(_FAILURE.search(text) for text in strings_in(call))
