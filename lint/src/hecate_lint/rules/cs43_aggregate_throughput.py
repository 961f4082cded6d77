"""CS-43: a rate of the whole cluster without a rate per device."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, locals_of
from hecate_lint.index import ancestors, parent, walk
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word, scope_nodes, words_in

_WORLD = frozenset(
    "world_size get_world_size num_processes ddp_world_size dp_size n_gpus num_gpus world data_parallel_size".split()
)
_GLOBAL = Pattern(r"^(global_|total_batch|effective_batch|total_tokens_per_step)")
_COUNT = Pattern(r"tok|sample|seq|batch|image|example|item|char|byte|word", re.I)
_TIME = Pattern(
    r"^(dt|t|time|elapsed|seconds|secs?|duration|delta|took|wall)|_(s|sec|secs|seconds|time|elapsed|ms)$|time|elapsed",
    re.I,
)
_PER_DEVICE = Pattern(r"per[_ /]?(gpu|device|rank|chip|accelerator|worker)|/gpu|_gpu$|/s/gpu", re.I)
_SINK = frozenset(
    "print log info debug warning add_scalar log_metrics log_dict record update write set_postfix append".split()
)


class AggregateThroughput(Rule):
    """A throughput of all devices together is published without one per device.

    SMELL. A count multiplied by the world size (or named `global_*`, `total_batch*`) is divided by a time and
    printed, logged or returned, and no per-device figure stands in the same scope.

    WHY. The sum grows with every device added, so a change that makes each device slower looks like progress.

    FIX. Publish `local_tokens / seconds` per device; the sum may stand beside it.

    TRACE. Catalogue smell CS-43; the report schema has `per_device` and `aggregate`, both required.
    """

    id = "CS-43"
    name = "aggregate-throughput"
    group = "core"
    severity = "warn"
    words = _WORLD
    why = "the sum over devices rises with each device added, also when every one of them got slower"
    mend = "publish the rate per device: local_tokens / seconds, the sum beside it"

    VALID = """
world = dist.get_world_size()
logger.log({"tok_per_s_per_gpu": local_tokens / dt, "tok_per_s_all": local_tokens * world / dt})
# ---
def bench(fn, tokens):
    t = timer(fn)
    return tokens / t
# ---
def log(tokens, dt, world_size):
    print(f"{tokens * world_size / dt / world_size:.0f} tok/s")
# ---
def log(tokens, dt, world_size):
    per_gpu = tokens / dt
    print(per_gpu, tokens * world_size / dt)
# ---
def scale(lr, batch, world_size):
    return {"lr": lr * world_size / batch}
# ---
def bench(fn, local_tokens, dt, world_size):
    print(f"rank {world_size}: {local_tokens / dt:.0f} tok/s")
"""
    INVALID = """
def log(step, tokens, dt):
    world = dist.get_world_size()
    print(f"{step}: {tokens * world / dt:.0f} tok/s")  # <-
# ---
total_batch = per_gpu_batch * seq * ddp_world_size
tok_per_sec = total_batch / dt
logger.log({"throughput": tok_per_sec})  # <-
# ---
def report(samples, elapsed, world_size):
    return {"samples_per_second": samples * world_size / elapsed}  # <-
# ---
def report(num_tokens, t0, t1, num_processes):
    all_tokens = num_tokens * num_processes
    tps = all_tokens / (t1 - t0)
    print("tps", tps)  # <-
# ---
def log(writer, step, batch, seconds, world_size):
    images = batch * world_size
    writer.add_scalar("images_per_sec", images / seconds, step)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for node in file.index.all(ast.BinOp):
            if not isinstance(node.op, ast.Div) or not _is_time(node.right):
                continue
            count = _resolved(node.left)
            if not _is_global(node.left, count) or _divided_again(node):
                continue
            if _per_device(node):
                continue
            sink = _sink(node)
            if sink is not None:
                yield Hit(
                    sink, f"`{ast.unparse(node)}` sums over devices, and no rate per device stands beside it", "likely"
                )

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call() | m.Dict() | m.Return()


def _is_time(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        return True
    return bool(_TIME.search(last_word(node)))


def _resolved(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.Name):
        return locals_of(node).value(node.id) or node
    return node


def _is_global(written: ast.expr, count: ast.expr) -> bool:
    words = words_in(count) | words_in(written)
    if not any(_COUNT.search(word) for word in words):
        return False
    if any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mult) and _has_world(n) for n in walk(count)):
        return True
    return bool(_GLOBAL.search(last_word(written))) and count is not written and _has_world(count)


def _has_world(node: ast.AST) -> bool:
    return bool(words_in(node) & _WORLD)


def _divided_again(node: ast.AST) -> bool:
    at: ast.AST | None = parent(node)
    while isinstance(at, (ast.BinOp, ast.Call)):
        if (
            isinstance(at, ast.BinOp)
            and isinstance(at.op, ast.Div)
            and (_has_world(at.right) or "parallel" in str(words_in(at.right)))
        ):
            return True
        at = parent(at)
    return False


def _per_device(node: ast.AST) -> bool:
    for at in scope_nodes(node):
        if isinstance(at, ast.Constant) and isinstance(at.value, str) and _PER_DEVICE.search(at.value):
            return True
        if isinstance(at, ast.Name) and isinstance(at.ctx, ast.Store) and _PER_DEVICE.search(at.id):
            if "batch" not in at.id:
                return True
        if isinstance(at, ast.BinOp) and isinstance(at.op, ast.Div) and words_in(at.right) & _WORLD and at is not node:
            return True
    return False


def _sink(node: ast.AST) -> ast.AST | None:
    """Where a value is published: the call, the returned dict; through one local name."""
    found = _direct_sink(node)
    if found is not None:
        return found
    assign = next((at for at in ancestors(node) if isinstance(at, ast.stmt)), None)
    if isinstance(assign, ast.Assign) and isinstance(assign.targets[0], ast.Name):
        name = assign.targets[0].id
        for use in scope_nodes(node):
            if isinstance(use, ast.Name) and use.id == name and isinstance(use.ctx, ast.Load):
                found = _direct_sink(use)
                if found is not None:
                    return found
    return None


def _direct_sink(node: ast.AST) -> ast.AST | None:
    for at in ancestors(node):
        if isinstance(at, ast.Call) and last_word(at) in _SINK:
            return at
        if isinstance(at, ast.Return) and isinstance(at.value, ast.Dict):
            return at
        if isinstance(at, ast.stmt):
            return None
    return None
