"""CS-42: recomputing activations through a memory that changes while it reads."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.confirming import call_of, names, switched_on
from hecate_lint.facts import File, arguments, constant, split_words
from hecate_lint.index import FUNCTIONS, LOOPS, Function, function_of, parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_CHECKPOINT = (
    "torch.utils.checkpoint.checkpoint",
    "torch.utils.checkpoint.checkpoint_sequential",
    "torch.utils.checkpoint.create_selective_checkpoint_contexts",
    "deepspeed.checkpointing.checkpoint",
    "deepspeed.runtime.activation_checkpointing.checkpointing.checkpoint",
    "fairscale.nn.checkpoint_wrapper",
    "fairscale.nn.checkpoint.checkpoint_wrapper",
    "fairscale.nn.checkpoint.checkpoint_activations.checkpoint_wrapper",
    "transformer_engine.pytorch.checkpoint",
)
_WRAPPER = "torch.distributed.algorithms._checkpoint.checkpoint_wrapper."
_WRAPPERS = (_WRAPPER + "checkpoint_wrapper", _WRAPPER + "apply_activation_checkpointing")
_METHODS = ("gradient_checkpointing_enable", "_gradient_checkpointing_func", "set_gradient_checkpointing")
_KEYWORDS = ("gradient_checkpointing", "activation_checkpoint", "activation_checkpointing", "remat")
_RANDOM = ("dropout", "rand", "randn", "rand_like", "randn_like", "bernoulli", "multinomial", "normal", "Dropout")
_RECKONS = frozenset({"count", "estimate", "flops", "predict", "report"})
_KNOWN_KEYWORDS = ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "context_fn", "early_stop")


class ActivationRecompute(Rule):
    """A forward pass is run a second time in the backward pass.

    SMELL. `checkpoint(f, x)`, `model.gradient_checkpointing_enable()`, `gradient_checkpointing=True` and their
    kin in fairscale, DeepSpeed and torch.distributed. An error where the wrapped callable, read in the same
    file, holds an inner update, dropout or a random draw; a warning elsewhere.

    WHY. A memory that is written while it reads gives other values the second time: the backward pass then
    differentiates a forward pass that never happened, and no error is raised.

    FIX. Give the inner loop an analytical backward that works through a few chunks at a time. `--unsafe-fixes`
    calls the function directly: more memory, the same values.

    TRACE. Catalogue smell CS-42; runtime check: two backward passes give equal gradients with recomputation on.
    """

    id = "CS-42"
    name = "activation-recompute"
    group = "core"
    severity = "warn"
    fix_kind = "unsafe"
    words = frozenset(
        {"checkpoint", "checkpoint_sequential", "create_selective_checkpoint_contexts", "checkpoint_wrapper"}
        | {"apply_activation_checkpointing", "checkpointing", *_METHODS, *_KEYWORDS}
    )
    why = "a memory written while it reads gives other values the second time, so gradients belong to another forward"
    mend = "call the function directly, or give the inner loop an analytical backward over chunks"

    VALID = """
import torch.utils.checkpoint
class Block(nn.Module):
    supports_gradient_checkpointing = True
# ---
import torch.distributed.checkpoint as dcp
dcp.save({"model": state}, checkpoint_id=path)
# ---
def checkpoint(model, path):
    torch.save(model.state_dict(), path)
checkpoint(model, "last.pt")
# ---
class Model(nn.Module):
    def gradient_checkpointing_enable(self, kwargs=None):
        self.wanted = True
        self.policy.gradient_checkpointing_enable(kwargs)
# ---
args = Arguments(gradient_checkpointing=False)
flops = count_flops(model, gradient_checkpointing=True)
# ---
from torch.utils.checkpoint import checkpoint
def save(checkpoint, state):
    checkpoint(state)
# ---
from torch.utils.checkpoint import CheckpointPolicy
def keep(policy: CheckpointPolicy) -> bool:
    return policy == CheckpointPolicy.MUST_SAVE
# ---
model.set_gradient_checkpointing(False)
with torch.autograd.graph.save_on_cpu():
    y = model(x)
"""
    INVALID = """
from torch.utils.checkpoint import checkpoint as ckpt
def forward(self, x):
    return ckpt(self.block, x, use_reentrant=False)  # <-
# ---
model = build()
model.gradient_checkpointing_enable()  # <-
# ---
import torch.utils.checkpoint as uc
class Block(nn.Module):
    def inner(self, x):
        return F.dropout(x, 0.1)
    def forward(self, x):
        return uc.checkpoint(self.inner, x)  # <-
# ---
args = TrainingArguments(output_dir="o", gradient_checkpointing=True)  # <-
# ---
import functools
from torch.utils.checkpoint import checkpoint
recompute = functools.partial(checkpoint, use_reentrant=False)
def forward(f, x):
    return recompute(f, x)  # <-
# ---
@dataclass
class Config:
    width: int = 64
    gradient_checkpointing: bool = True  # <-
# ---
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
apply_activation_checkpointing(model, check_fn=is_block)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for call in file.names.calls(*_CHECKPOINT, *_WRAPPERS):
            yield self._wrapped(file, call)
        for use in file.names.uses(*_CHECKPOINT):
            above = parent(use)
            if isinstance(above, FUNCTIONS) and use in above.decorator_list:
                yield Hit(use, f"`{above.name}` is recomputed in the backward pass", fixable=False)
        for node in file.index.word(*_METHODS):
            above = parent(node)
            if isinstance(node, ast.Attribute) and isinstance(above, ast.Call) and above.func is node:
                if node.attr == "set_gradient_checkpointing" and any(constant(arg) is False for arg in above.args):
                    continue
                function = function_of(above)
                if function is not None and function.name == node.attr:
                    continue  # a definition that hands on to a part or to super()
                yield Hit(above, f"`{node.attr}` turns on recomputation of activations", "likely", fixable=False)
        yield from self._switches(file)

    def _switches(self, file: File) -> Iterator[Hit]:
        for keyword in file.index.all(ast.keyword):
            if keyword.arg in _KEYWORDS and constant(keyword.value) is True and not _counts(parent(keyword)):
                message = f"`{keyword.arg}=True` turns on recomputation of activations"
                yield Hit(keyword, message, "likely", fixable=False)
        for node in file.index.all(ast.AnnAssign):
            is_field = isinstance(node.target, ast.Name) and isinstance(parent(node), ast.ClassDef)
            if is_field and node.target.id in _KEYWORDS and constant(node.value) is True:  # type: ignore[union-attr]
                message = f"`{node.target.id}` recomputes activations by default"  # type: ignore[union-attr]
                yield Hit(node, message, "likely", fixable=False)

    def _wrapped(self, file: File, call: ast.Call) -> Hit:
        called = file.names.callee(call) or ""
        target = _target(file, call)
        reason = _stateful(target) if target is not None else ""
        message = f"`{called.rsplit('.', 1)[-1]}` recomputes {'its function' if target is None else f'`{target.name}`'}"
        plain = called.endswith("checkpoint.checkpoint") and bool(call.args) and _droppable(call)
        if reason:
            return Hit(call, f"{message}, which {reason}", severity="error", fixable=plain)
        return Hit(call, f"{message} in the backward pass", fixable=plain)

    def pattern(self, m: Any, hit: Hit) -> Any:
        if isinstance(hit.node, ast.Call):
            return call_of(m, hit.node)
        if isinstance(hit.node, ast.keyword):
            return switched_on(m, _KEYWORDS)
        if isinstance(hit.node, ast.AnnAssign):
            return m.AnnAssign(target=names(m, _KEYWORDS), value=m.Name("True"))
        return m.Name() | m.Attribute()  # a decorator

    def fix(self, node: Any, hit: Hit) -> Any:
        first, *rest = node.args
        kept = [arg for arg in rest if arg.keyword is None or arg.keyword.value not in _KNOWN_KEYWORDS]
        if kept:
            kept[-1] = kept[-1].with_changes(comma=node.args[-1].comma)
        return node.with_changes(func=first.value, args=kept)


def _counts(call: ast.AST | None) -> bool:
    """Whether a call only reckons what recomputation would cost."""
    return isinstance(call, ast.Call) and bool(_RECKONS & set(split_words(last_word(call))))


def _droppable(call: ast.Call) -> bool:
    names = set(arguments(call))
    simple = isinstance(call.args[0], (ast.Name, ast.Attribute))
    return simple and names <= set(_KNOWN_KEYWORDS) and len(names) == len(call.keywords)


def _target(file: File, call: ast.Call) -> Function | None:
    """The function of this file that is wrapped: named, a method, or called from a lambda."""
    if not call.args:
        return None
    first = call.args[0]
    if isinstance(first, ast.Lambda) and isinstance(first.body, ast.Call):
        return file.callee(first.body)
    if isinstance(first, (ast.Name, ast.Attribute)):
        shadow = ast.Call(func=first, args=[], keywords=[])
        shadow._parent = parent(call)  # type: ignore[attr-defined]
        return file.callee(shadow)
    return None


def _stateful(function: Function) -> str:
    """Why a second run of a function differs from the first; empty when nothing says so."""
    for node in walk(function):
        if isinstance(node, ast.Call):
            word = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if word in _RANDOM:
                return f"draws at random (`{word}`)"
            if isinstance(node.func, ast.Attribute) and word.endswith("_") and not word.endswith("__"):
                return f"writes in place (`{word}`)"
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            return f"writes `{ast.unparse(node)}`"
        if isinstance(node, LOOPS) and any("state" in getattr(n, "id", "") for n in walk(node)):
            return "holds an inner loop over state"
    return ""
