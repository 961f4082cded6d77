"""PT-14: a checkpoint that may lack what it should contain."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments, constant
from hecate_lint.index import FUNCTIONS, ancestors, class_of, function_of, parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

_LOADERS = frozenset({"set_extra_state", "load_state_dict", "_load_from_state_dict", "from_checkpoint", "__setstate__"})


class ForgivingStateLoad(Rule):
    """Loading state fills what is missing with a default.

    SMELL. `state.get(k, default)` or `if k in state` in a loader, for a key that the matching save writes
    always; `strict=False`.

    WHY. A truncated or renamed checkpoint loads, and the run goes on with fresh values where learned ones
    should be.

    FIX. `state[k]`; a migration says so by name and version.

    TRACE. PyTorch rule PT-14.
    """

    id = "PT-14"
    name = "forgiving-state-load"
    group = "torch"
    severity = "warn"
    fix_kind = "unsafe"
    words = frozenset({*_LOADERS, "strict"})
    why = "a truncated or renamed checkpoint loads, and fresh values stand where learned ones should"
    mend = "read state[k] and let a missing key fail"

    VALID = """
def set_extra_state(self, s):
    self.iso = s["iso"]
# ---
missing = model.load_state_dict(sd)
# ---
def configure(options):
    return options.get("width", 4)
# ---
class M:
    def get_extra_state(self):
        out = {}
        if self.iso:
            out["iso"] = self.iso
        return out
    def set_extra_state(self, s):
        self.iso = s.get("iso", False)
# ---
model.load_state_dict(sd, strict=True)
# ---
missing, extra = model.load_state_dict(sd, strict=False)
if missing:
    raise KeyError(missing)
"""
    INVALID = """
def set_extra_state(self, s):
    self.iso = s.get("iso", False)  # <-
# ---
model.load_state_dict(sd, strict=False)  # <-
# ---
class M:
    def state_dict(self):
        return {"step": self.step, "m": self.m}
    def load_state_dict(self, state):
        self.step = state.get("step", 0)  # <-
        self.m = state["m"]
# ---
class M:
    def load_state_dict(self, state):
        if "step" in state:  # <-
            self.step = state["step"]
# ---
@classmethod
def from_checkpoint(cls, data):
    return cls(width=data.get("width", 64))  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        for call in file.index.all(ast.Call):
            func = call.func
            if not isinstance(func, ast.Attribute):
                continue
            if (
                func.attr == "load_state_dict"
                and constant(arguments(call).get("strict")) is False
                and not _checked(call)
            ):
                yield Hit(call, "`strict=False` accepts a checkpoint with missing keys", fixable=False)
            elif func.attr == "get" and len(call.args) == 2 and isinstance(func.value, ast.Name):
                key = constant(call.args[0])
                if self._is_loader_state(file, call, func.value.id, key):
                    fixed = (
                        f"{func.value.id}[{call.args[0].value!r}]" if isinstance(call.args[0], ast.Constant) else None
                    )
                    yield Hit(call, f"`{ast.unparse(call)}` fills a missing key with a default", data=fixed)
        for test in file.index.all(ast.Compare):
            above = parent(test)
            if (
                isinstance(above, ast.If)
                and above.test is test
                and isinstance(test.ops[0], ast.In)
                and not above.orelse
            ):
                subject = test.comparators[0]
                if isinstance(subject, ast.Name) and self._is_loader_state(file, test, subject.id, constant(test.left)):
                    yield Hit(test, f"`{ast.unparse(test)}` skips a missing key", fixable=False)

    def _is_loader_state(self, file: File, node: ast.AST, name: str, key: object) -> bool:
        function = function_of(node)
        if function is None or function.name not in _LOADERS or not isinstance(key, str):
            return False
        if name not in {arg.arg for arg in function.args.args[1:]}:
            return False
        return not self._saved_conditionally(file, node, key)

    def _saved_conditionally(self, file: File, node: ast.AST, key: str) -> bool:
        """Whether the class writes this key under a condition."""
        cls = class_of(node)
        for at in walk(cls) if cls is not None else ():
            if isinstance(at, ast.Subscript) and isinstance(at.ctx, ast.Store) and constant(at.slice) == key:
                for above in ancestors(at):
                    if isinstance(above, ast.If):
                        return True
                    if isinstance(above, FUNCTIONS):
                        break
        return False

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call(func=m.Attribute()) | m.Comparison()

    def fix(self, node: Any, hit: Hit) -> Any:
        return hit.data


def _checked(call: ast.Call) -> bool:
    """Whether what `load_state_dict` returns is kept, so that missing keys can be looked at."""
    return not isinstance(parent(call), ast.Expr)
