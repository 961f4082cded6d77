"""FL-12: a flag of which only one spelling is understood."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, constant
from hecate_lint.index import parent
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

_WORDS = frozenset({"y", "yes", "n", "no", "true", "false", "True", "False", "on", "off", "1", "0"})


class HalfParsedFlag(Rule):
    """A flag counts as set by its mere presence, or by one spelling of several.

    SMELL. `if os.environ.get("FAST"):`, which takes "0" for yes; `cfg["flag"] == "y"` in a file that elsewhere
    tests the same flag against `True`.

    WHY. `FAST=0` switches it on.

    FIX. Parse a flag once, in one place, and refuse what is neither.

    TRACE. Fail-loud rule FL-12.
    """

    id = "FL-12"
    name = "half-parsed-flag"
    group = "fail-loud"
    severity = "info"
    default = False
    why = "setting the flag to 0 or no switches it on"
    mend = 'compare with the accepted words: os.environ.get("FAST", "0") == "1"'

    VALID = """
fast = os.environ.get("FAST", "0") == "1"
# ---
if cfg["flag"] in ("y", True):
    on = True
# ---
path = os.environ.get("DATA") or "data"
# ---
if os.environ.get("HOME") is None:
    raise OSError("no home")
# ---
if cfg["mode"] == "y":
    pass
"""
    INVALID = """
if os.environ.get("FAST"):  # <-
    fast = True
# ---
if cfg["flag"] == "y":  # <-
    on = True
on2 = cfg["flag"] is True
# ---
debug = True if os.getenv("DEBUG") else False  # <-
# ---
use_tf32 = bool(os.environ.get("TF32"))  # <-
# ---
if not os.environ.get("QUIET"):  # <-
    print("hello")
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for call in file.names.calls("os.environ.get", "os.getenv"):
            if len(call.args) == 1 and _is_truth(call):
                yield Hit(call, f"`{ast.unparse(call)}` counts every non-empty text as yes", "likely")
        against_true: set[str] = set()
        spelled: list[tuple[str, ast.Compare]] = []
        for test in file.index.all(ast.Compare):
            if len(test.ops) == 1 and isinstance(test.left, (ast.Subscript, ast.Attribute)):
                value, left = constant(test.comparators[0]), ast.unparse(test.left)
                if value is True or value is False:
                    against_true.add(left)
                elif isinstance(value, str) and value in _WORDS and isinstance(test.ops[0], (ast.Eq, ast.NotEq)):
                    spelled.append((left, test))
        for left, test in spelled:
            if left in against_true:
                yield Hit(test, f"`{left}` is a word here and a bool elsewhere in this file", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call() | m.Comparison()


def _is_truth(call: ast.Call) -> bool:
    above = parent(call)
    if isinstance(above, (ast.If, ast.IfExp, ast.While)):
        return above.test is call
    if isinstance(above, ast.UnaryOp) and isinstance(above.op, ast.Not):
        return True
    return isinstance(above, ast.Call) and getattr(above.func, "id", "") == "bool"
