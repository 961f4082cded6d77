"""PT-12: loading a file that may run code."""

from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments, constant
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import parts_in

_PATHS = frozenset("ckpt checkpoint weights model state".split())


class UnsafeLoad(Rule):
    """A checkpoint is unpickled.

    SMELL. `torch.load` without `weights_only=True`; `pickle.load` of a checkpoint.

    WHY. A pickle runs code of whoever wrote it, and checkpoints travel.

    FIX. `weights_only=True`, or safetensors.

    TRACE. PyTorch rule PT-12.
    """

    id = "PT-12"
    name = "unsafe-load"
    group = "torch"
    severity = "warn"
    fix_kind = "unsafe"
    words = frozenset({"load", "loads"})
    why = "a pickle runs the code of whoever wrote it, and checkpoints travel"
    mend = "torch.load(..., weights_only=True), or safetensors"

    VALID = """
sd = torch.load(p, weights_only=True)
# ---
sd = safetensors.torch.load_file(p)
# ---
import json
cfg = json.load(open(p))
# ---
opts = torch.load(p, **kw)
# ---
import pickle
rows = pickle.load(open("rows.pkl", "rb"))
# ---
def load(p):
    return p
sd = load("x")
"""
    INVALID = """
sd = torch.load(p)  # <-
# ---
from torch import load
sd = load(p, map_location="cpu")  # <-
# ---
import torch as t
sd = t.load(p, weights_only=False)  # <-
# ---
import pickle as pk
sd = pk.load(open(checkpoint_path, "rb"))  # <-
# ---
def restore(path):
    return torch.serialization.load(path)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for call in file.names.calls("torch.load", "torch.serialization.load"):
            given = arguments(call)
            starred = any(keyword.arg is None for keyword in call.keywords)
            if "weights_only" not in given and not starred:
                yield Hit(call, "`torch.load` without `weights_only=True`")
            elif constant(given.get("weights_only")) is False:
                yield Hit(call, "`torch.load` with `weights_only=False`", fixable=False)
        for call in file.names.calls("pickle.load", "pickle.loads"):
            if parts_in(call) & _PATHS:
                yield Hit(call, "a checkpoint is unpickled", "likely", fixable=False)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call()

    def fix(self, node: Any, hit: Hit) -> Any:
        import libcst as cst

        if not node.args or not isinstance(node.args[-1].comma, cst.MaybeSentinel):
            return None
        equal = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
        comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
        said = cst.Arg(cst.Name("True"), keyword=cst.Name("weights_only"), equal=equal)
        return node.with_changes(args=[*node.args[:-1], node.args[-1].with_changes(comma=comma), said])
