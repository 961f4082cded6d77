"""CS-47: writing into storage that somebody else may hold."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.confirming import call_of, with_keyword
from hecate_lint.facts import File
from hecate_lint.index import Function, ancestors, class_of, function_of, own_nodes, parent, walk
from hecate_lint.model import Hit
from hecate_lint.names import dotted_text
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.storage import Shared, Write, shared, writes

_CONSTRUCTION = Pattern(
    r"^_*(__init__|init|reset|initiali[sz]e|post_init|build|make|create|setup|register|setup_\w+)(_|$)|_init(_|$)|_init_weights|initiali[sz]er|__setstate__|__setitem__|^__i\w+__$|_apply$|_fill_|trunc_normal"
)
_LOADING = Pattern(r"load|restore|from_pretrained|import_|convert")
_FORWARD = Pattern(
    r"^_?(forward|step|write|update|read|absorb|recall|inner|call|attend|decode|prefill)|^__call__$|_(step|update|forward)$"
)
_OUT_OF_PLACE = frozenset(
    "add_ sub_ mul_ div_ lerp_ addcmul_ addcdiv_ addmm_ baddbmm_ clamp_ index_add_ scatter_ scatter_add_ masked_fill_"
    " exp_ neg_ sigmoid_ tanh_ relu_ sqrt_ pow_ index_copy_ index_fill_".split()
)


class InPlaceOnSharedState(Rule):
    """Storage that somebody else may hold is overwritten.

    SMELL. A method ending in `_`, an augmented or item assignment, `out=`, `.data` or `inplace=True` writes a
    parameter, a buffer, a state that was handed in, or an alias of one (`view`, slices, `detach` and `.data`
    share storage). An error in a function of the inner loop by its name (forward, step, write, read, update,
    ...), a warning elsewhere.

    WHY. The caller's old state changes under its feet: saved tensors, a probe's copy, the other branch of a
    search. Under `no_grad` autograd does not even complain; the aliasing is the same.

    FIX. Return a new tensor: `memory = 0.9 * memory + write`. State comes in, new state goes out.

    TRACE. Catalogue smell CS-47; runtime check: version counters of state are unchanged through a forward.
    """

    id = "CS-47"
    name = "in-place-on-shared-state"
    group = "core"
    severity = "warn"
    fix_kind = "safe"
    why = "whoever else holds this storage (a caller, a saved graph, a probe) sees it change; no_grad only hides it"
    mend = "compute a new tensor and return it: state in, new state out"

    VALID = """
def write(self, memory, k, v):
    return 0.9 * memory + v @ k.T
# ---
class SGD(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            p.add_(p.grad, alpha=-0.1)
# ---
def step(state, x):
    state = state.clone()
    state.mul_(0.9)
    fresh = torch.zeros(4)
    fresh[:, 0] = x
    fresh.add_(x)
    return state, fresh
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4))
        self.steps = 0
        self.reset_parameters()
    def reset_parameters(self):
        with torch.no_grad():
            self.weight.fill_(1.0)
        nn.init.zeros_(self.weight)
    def forward(self, x):
        self.steps += 1
        return x
# ---
def train(model, opt, seen, cache):
    opt.zero_grad()
    seen.add(model)
    cache["last"] = model
    model.requires_grad_(False)
    for p in model.parameters():
        p.grad.mul_(0.5)
    for (name, p), seen in zip(model.named_parameters(), fresh_like(model)):
        seen.data += p.grad
# ---
def norm(x, eps):
    y = x.sqrt().add_(eps)
    return y.mul_(2)
# ---
def count(state: dict, memory: int):
    state["n"] += 1
    memory += 1
    return memory
def measured(model, memory, states, cache, prev):
    for p in model.parameters():
        memory += p.numel() * p.element_size()
    states += [torch.zeros(4)]
    cache["hits"] += 1
    prev *= 0.5
    return memory, states, prev
# ---
class Boxes:
    def __init__(self, data):
        self.valid = torch.zeros(4)
    def __setitem__(self, key, value):
        self.valid[..., key] = value
    def __imul__(self, factor):
        self.valid.mul_(factor)
        return self
# ---
class Head(nn.Module):
    def log_sum(self, u):
        shift = self.logits.max(1, True).values
        shift.data.clamp_(min=-1e4)
        return (u - shift).logsumexp(0) + shift
# ---
import numpy as np
import torch
class Frames:
    def __init__(self, width):
        self.buffer = np.ones((4, width))
        setattr(self, "options", dict(frozen={}))
    def put(self, frame, name):
        self.buffer[:, -1:] = frame
        self.options["frozen"][name] = True
# ---
def tick(block_state, scheduler):
    block_state.latents = scheduler.step(block_state.latents)[0].squeeze(0)
    block_state.latents[:, 3:] = 0
def border(m: torch.Tensor, width):
    m[:, :width] = 0
def get_initializer():
    def constant(w):
        w.weight.data = torch.ones_like(w.weight)
    return constant
"""
    INVALID = """
def write(self, k, v):
    with torch.no_grad():
        self.memory.mul_(0.9).add_(v @ k.T)  # <-
# ---
def step(self, x, conv_state):
    conv_state[:, :, -1] = x  # <-
    return conv_state
# ---
def decay(model):
    for p in model.parameters():
        p.data.mul_(0.9)  # <-
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(4))
    def forward(self, x):
        self.total += x  # <-
        torch.add(x, 1, out=self.total)  # <-
        return self.total
# ---
def step(memory: torch.Tensor, u):
    head = memory.view(-1)[:4]
    head.copy_(u)  # <-
    return memory
# ---
def forget(memory, rate):
    memory.mul_(rate)  # <-
    return memory
# ---
def put(cache, name, i, new):
    cache[name][i].copy_(new)  # <-
# ---
def write(memory, k, v, rate):
    memory += rate * v @ k.T  # <-
    return memory
def absorb(self, state, x):
    update = torch.outer(x, x)
    state.matrix += update  # <-
    state["surprise"] *= 0.9 * update  # <-
    return state
def forget(surprise, rate, q):
    surprise *= rate  # <-
    return q @ surprise, surprise
# ---
def swap(layer, state, new):
    torch.Tensor.add_(state, new)  # <-
    layer.weight.data = new  # <-
    state = F.relu(state, inplace=True)  # <-
    return state
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if not file.uses_torch:
            return
        for write in writes(file):
            function = function_of(write.node)
            if function is None and write.how in (
                "item assignment",
                "augmented assignment",
                "augmented item assignment",
            ):
                continue
            if _is_excused(file, write, function):
                continue
            reason = shared(file, write)
            if reason is not None:
                yield self._hit(write, reason, function)

    def _hit(self, write: Write, reason: Shared, function: Function | None) -> Hit:
        name = function.name if function is not None else ""
        severity = "error" if _FORWARD.search(name) and not _LOADING.search(name) else "warn"
        message = f"{write.how if write.how[-1] != '_' else f'`{write.how}`'} writes into {reason.what}"
        fixable = _fixable(write, function)
        return Hit(write.node, message, reason.confidence, severity, fixable=fixable, data=write.how)

    def pattern(self, m: Any, hit: Hit) -> Any:
        if hit.data == "augmented assignment":
            return m.AugAssign(target=m.Name() | m.Attribute())
        if hit.data == "augmented item assignment":
            return m.AugAssign(target=m.Subscript())
        if hit.data in ("item assignment", "assignment to .data"):
            stored = m.Subscript() | m.Attribute(attr=m.Name("data"))
            return m.Assign(targets=[m.ZeroOrMore(), m.AssignTarget(target=stored), m.ZeroOrMore()])
        if hit.data == "out=":
            return call_of(m, hit.node, args=with_keyword(m, "out"))
        if hit.data.endswith("(inplace=True)"):
            return call_of(m, hit.node, args=with_keyword(m, "inplace", m.Name("True")))
        return call_of(m, hit.node)

    def fix(self, node: Any, hit: Hit) -> Any:
        call = hit.node
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            return None
        import libcst as cst

        plain = node.func.with_changes(attr=cst.Name(hit.data.rstrip("_")))
        target = cst.Name(node.func.value.value)
        assign = cst.Assign([cst.AssignTarget(target)], node.with_changes(func=plain, lpar=(), rpar=()))
        return assign


def _fixable(write: Write, function: Function | None) -> bool:
    """A statement `x.op_(y)` on a local name that the function returns: assigning loses nothing."""
    call = write.node
    if not (isinstance(call, ast.Call) and isinstance(parent(call), ast.Expr) and write.how in _OUT_OF_PLACE):
        return False
    func = call.func
    if not (isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name)) or function is None:
        return False
    name = func.value.id
    returns = [n for n in own_nodes(function) if isinstance(n, ast.Return) and n.value is not None]
    in_all = [any(isinstance(m, ast.Name) and m.id == name for m in walk(n)) for n in returns]
    return bool(in_all) and all(in_all)


def _is_excused(file: File, write: Write, function: Function | None) -> bool:
    cls = class_of(write.node)
    if cls is not None and _is_optimizer(file, cls):
        return True
    if function is None:
        return False
    at: Function | None = function
    while at is not None:
        if _CONSTRUCTION.search(at.name) or (at.name.endswith("_") and not at.name.endswith("__")):
            return True
        at = function_of(at)
    if cls is None:
        return any(_is_optimizer(file, other) for other in file.index.all(ast.ClassDef))
    return _only_from_constructor(file, function, cls)


def _is_optimizer(file: File, cls: ast.ClassDef) -> bool:
    return any(base.rsplit(".", 1)[-1].endswith(("Optimizer", "Optim")) for base in file.bases(cls)) or (
        "Optimizer" in cls.name
    )


def _only_from_constructor(file: File, function: Function, cls: ast.ClassDef) -> bool:
    """Whether a private method is called in its class, and only from what constructs."""
    if not function.name.startswith("_"):
        return False
    methods = set(file.methods(cls).values())
    callers = []
    for node in file.index.word(function.name):
        call = parent(node)
        if isinstance(call, ast.Call) and call.func is node and dotted_text(node) == f"self.{function.name}":
            callers += [at for at in ancestors(node) if at in methods]
    return bool(callers) and all(_CONSTRUCTION.search(caller.name) for caller in callers)
