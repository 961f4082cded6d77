"""PT-11: activation checkpointing with a default that changes."""

from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments
from hecate_lint.model import Hit
from hecate_lint.rule import Rule

_CALLS = ("torch.utils.checkpoint.checkpoint", "torch.utils.checkpoint.checkpoint_sequential")


class CheckpointWithoutUseReentrant(Rule):
    """`checkpoint(...)` does not say which of its two implementations it means.

    SMELL. A call of `torch.utils.checkpoint.checkpoint` without `use_reentrant=`.

    WHY. The default is changing; the reentrant form also drops gradients of inputs that are not tensors and
    breaks under `torch.autograd.grad`.

    FIX. `use_reentrant=False`, after looking once at what the function needs.

    TRACE. PyTorch rule PT-11; CS-42 reports the recomputation itself.
    """

    id = "PT-11"
    name = "checkpoint-without-use-reentrant"
    group = "torch"
    severity = "warn"
    fix_kind = "unsafe"
    words = frozenset({"checkpoint", "checkpoint_sequential"})
    why = "the default is changing, and the two implementations differ in what they differentiate"
    mend = "say use_reentrant=False"

    VALID = """
y = checkpoint(f, x, use_reentrant=False)
# ---
y = checkpoint(f, x, **kw)
# ---
from torch.utils.checkpoint import checkpoint
y = checkpoint(f, x, use_reentrant=True)
# ---
def checkpoint(path):
    return path
checkpoint("a")
# ---
import torch.distributed.checkpoint as dcp
dcp.save(state)
"""
    INVALID = """
y = checkpoint(f, x)  # <-
# ---
y = torch.utils.checkpoint.checkpoint(f, x, preserve_rng_state=True)  # <-
# ---
from torch.utils.checkpoint import checkpoint as ckpt
y = ckpt(f, x)  # <-
# ---
import torch.utils.checkpoint as uc
y = uc.checkpoint_sequential(blocks, 4, x)  # <-
# ---
def forward(self, x):
    from torch.utils import checkpoint
    return checkpoint.checkpoint(self.block, x)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for call in file.names.calls(*_CALLS):
            starred = any(keyword.arg is None for keyword in call.keywords)
            if "use_reentrant" not in arguments(call) and not starred:
                yield Hit(call, "`checkpoint` without `use_reentrant=`")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call()

    def fix(self, node: Any, hit: Hit) -> Any:
        import libcst as cst

        equal = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
        comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
        said = cst.Arg(cst.Name("False"), keyword=cst.Name("use_reentrant"), equal=equal)
        if not node.args or not isinstance(node.args[-1].comma, cst.MaybeSentinel):
            return None
        return node.with_changes(args=[*node.args[:-1], node.args[-1].with_changes(comma=comma), said])
