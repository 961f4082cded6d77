"""PT-09: ranks that wait for each other in every forward."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments, constant
from hecate_lint.index import ancestors, class_of, function_of, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word, loop_of

_BLOCKING = tuple(
    f"torch.distributed.{name}"
    for name in "all_reduce all_gather all_gather_into_tensor all_gather_object broadcast barrier reduce gather".split()
)
_OBJECTS = ("torch.distributed.broadcast_object_list", "torch.distributed.all_gather_object")
_PARALLEL = ("parallel", "tensorparallel", "tp", "sharded", "moe", "expert", "sync", "fsdp", "megatron", "vocab")


class CollectiveInForward(Rule):
    """A collective runs in every forward, or objects are broadcast in a step loop.

    SMELL. `dist.all_reduce(...)` in `forward` with no rank or interval gate; `broadcast_object_list` inside a
    loop over steps.

    WHY. Every rank waits for the slowest in every layer, and one rank that takes another branch hangs them all.
    Objects are pickled on the host.

    FIX. Gate it by an interval, start it async and wait later, or move it out of forward.

    TRACE. PyTorch rule PT-09.
    """

    id = "PT-09"
    name = "collective-in-forward"
    group = "torch"
    severity = "warn"
    words = frozenset({name.rsplit(".", 1)[-1] for name in (*_BLOCKING, *_OBJECTS)})
    why = "every rank waits for the slowest in every layer, and one that branches otherwise hangs them all"
    mend = "gate it by an interval, make it async, or move it out of forward"

    VALID = """
def forward(self, x):
    if self.step % 100 == 0:
        dist.all_reduce(self.loads)
    return x
# ---
dist.broadcast_object_list(objs, src=0)
# ---
class RowParallelLinear(nn.Module):
    def forward(self, x):
        dist.all_reduce(x)
        return x
# ---
def forward(self, x):
    work = dist.all_reduce(self.loads, async_op=True)
    y = self.inner(x)
    work.wait()
    return y
# ---
def sync(self):
    dist.all_reduce(self.loads)
"""
    INVALID = """
def forward(self, x):
    dist.all_reduce(self.loads)  # <-
    return x
# ---
for b in stream:
    dist.broadcast_object_list(objs, src=0)  # <-
# ---
import torch.distributed as td
class M(nn.Module):
    def forward(self, x):
        td.barrier()  # <-
        return x
# ---
from torch.distributed import broadcast
def forward(self, x):
    broadcast(self.mean, 0)  # <-
    return x
# ---
def run(stream, parts):
    while True:
        dist.all_gather_object(parts, next(stream))  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        for call in file.names.calls(*_BLOCKING, *_OBJECTS):
            name = file.names.callee(call) or ""
            function = function_of(call)
            if name in _OBJECTS and loop_of(call) is not None:
                yield Hit(call, f"`{name}` pickles objects in every step of a loop", "likely")
            elif function is not None and function.name == "forward" and not self._is_excused(call, function):
                yield Hit(call, f"`{name}` runs in every forward", "likely")

    def _is_excused(self, call: ast.Call, function: ast.AST) -> bool:
        if constant(arguments(call).get("async_op")) is True:
            return any(last_word(n) == "wait" for n in walk(function) if isinstance(n, ast.Call))
        cls = class_of(call)
        if cls is not None and any(word in cls.name.lower() for word in _PARALLEL):
            return True
        if cls is not None and any(last_word(base) == "Function" for base in cls.bases):
            return True
        return any(isinstance(at, ast.If) for at in ancestors(call))

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call(func=m.Name() | m.Attribute())
