"""Timings beside fla-core in the same process: its layouts, its shapes, its way of measuring."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hecate_core.backends import pair_for
from hecate_core.ops.affine import REFERENCE, AffineTokens, affine
from hecate_core.ops.affine_column import ColumnTokens, affine_column

from .roofline import floor
from .stage import Call, Stage


class Size(NamedTuple):
    """Batch, heads, tokens, head width."""

    batch: int
    heads: int
    tokens: int
    width: int

    @property
    def name(self) -> str:
        """The size as tables print it."""
        return f"B {self.batch}, H {self.heads}, T {self.tokens}, D {self.width}"


GOAL = (Size(8, 16, 4096, 128), Size(8, 16, 4096, 64))
PUBLIC = (  # of fla's own benchmark
    Size(1, 96, 8192, 128), Size(2, 16, 16384, 128), Size(4, 16, 2048, 128), Size(4, 64, 4096, 128),
    Size(8, 32, 2048, 256), Size(8, 8, 1024, 64),
)  # fmt: skip
THIN = Size(1, 8, 32768, 128)
DECODE = Size(64, 16, 1, 128)
TINY = Size(1, 2, 24, 16)
PEERS = {"delta": "fla-core", "kda": "fla-core", "titans": "fla-core (momentum_delta_rule, plain PyTorch in 0.6.0)"}


class Given(NamedTuple):
    """What both sides are given: `[B, H, T, D]` in bf16, gates in fp32, a first memory."""

    q: Tensor
    k: Tensor
    v: Tensor
    keep: Tensor
    write: Tensor
    momentum: Tensor
    memory: Tensor


def given(size: Size, device: torch.device, channels: bool = False) -> Given:
    """Unit queries and keys, decays as trained models have them; the same on every machine."""
    torch.manual_seed(0)
    shape = (size.batch, size.heads, size.tokens)
    q, k, v = (torch.randn(*shape, size.width, device=device) for _ in range(3))
    keep = 0.9 + 0.0999 * torch.rand(*shape, *([size.width] if channels else []), device=device)
    write, momentum = torch.rand(*shape, device=device), 0.9 * torch.rand(*shape, device=device)
    memory = torch.zeros(*shape[:2], size.width, size.width, device=device)
    unit = (F.normalize(one, dim=-1).bfloat16() for one in (q, k))
    return Given(*unit, v.bfloat16(), keep, write, momentum, memory)


Side = Callable[[Given], tuple[Call, list[Tensor]]]
"""From operands to a call that gives the reads, and the leaves that gradients go to."""


def ours(rule: str, pair: Any, chunk: int = 64) -> Side:
    """The op on a pair: gated delta (error after the decay), Titans (error before it), KDA."""

    def side(one: Given) -> tuple[Call, list[Tensor]]:
        leaves = [x.detach().requires_grad_() for x in (one.q, one.k, one.v, one.keep, one.write, one.momentum)]
        q, k, v, keep, write, momentum = leaves

        def call() -> object:
            if rule == "kda":
                tokens: Any = ColumnTokens(q, k, v, keep, write.unsqueeze(-1) * keep, write)
                return affine_column(tokens, one.memory, None, chunk, pair)[0]
            if rule == "delta":
                tokens = AffineTokens(q, k, v, keep, keep * write, write, None, None)
                return affine(tokens, one.memory, None, chunk, pair)[0]
            tokens = AffineTokens(q, k, v, keep, write, write, momentum, None)
            return affine(tokens, one.memory, torch.zeros_like(one.memory), chunk, pair)[0]

        return call, leaves if rule == "titans" else leaves[:5]

    return side


def theirs(rule: str, decode: bool = False) -> Side:
    """fla-core on the same numbers in its own layout `[B, T, H, D]`; raises ImportError where it is missing."""

    def side(one: Given) -> tuple[Call, list[Tensor]]:
        turned = [x.transpose(1, 2).contiguous() for x in (one.q, one.k, one.v, one.keep.log(), one.write)]
        leaves = [x.detach().requires_grad_() for x in (*turned, one.momentum.transpose(1, 2).log().contiguous())]
        q, k, v, log_keep, write, log_momentum = leaves
        first = one.memory.transpose(2, 3).contiguous()
        if rule == "titans":
            from fla.ops.momentum_delta_rule.chunk import chunk_momentum_delta_rule

            # The error of the old memory, as ours: theirs would take that of the decayed one.
            more = {"eta": write, "scale": 1.0, "use_qk_l2norm_in_kernel": False, "use_p_times_alpha": False}
            return lambda: chunk_momentum_delta_rule(q, k, v, log_keep, log_momentum, **more)[0], leaves
        if rule == "kda":
            from fla.ops.kda import chunk_kda

            return lambda: chunk_kda(q, k, v, log_keep, write, scale=1.0)[0], leaves[:5]
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

        if decode:
            more = {"g": log_keep, "beta": write, "scale": 1.0, "initial_state": first, "output_final_state": True}
            return lambda: fused_recurrent_gated_delta_rule(q, k, v, **more)[0], leaves[:5]
        return lambda: chunk_gated_delta_rule(q, k, v, log_keep, write, scale=1.0)[0], leaves[:5]

    return side


def cases(small: bool) -> Iterator[tuple[str, Size, tuple[str, ...]]]:
    """Rule, size and directions, the ones with a goal first."""
    learning = ("forward", "backward")
    if small:
        yield from (("delta", TINY, learning), ("titans", TINY, learning), ("kda", TINY, learning))
        yield "delta", TINY._replace(tokens=1), ("decode",)
        return
    for size in GOAL:
        yield "delta", size, learning
        yield "titans", size, learning
    yield "delta", DECODE, ("decode",)
    yield "delta", THIN, learning
    yield "kda", PUBLIC[0], learning
    yield from (("delta", size, learning) for size in PUBLIC)


def measured(stage: Stage, side: Side, operands: Given, direction: str) -> tuple[float, Tensor]:
    """Median milliseconds of a direction, and the reads."""
    call, leaves = side(operands)
    if direction != "backward":
        with torch.no_grad():
            reads: Any = call()
            return stage.clock(call).median, reads
    reads = call()
    weight = torch.ones_like(reads)
    again = stage.clock(lambda: torch.autograd.grad(reads, leaves, weight, retain_graph=True)).median
    return again, reads.detach()


def speeds(stage: Stage, card: str) -> Iterator[dict[str, Any]]:
    """A record per case: ours, fla's or why not, their ratio, how far the reads differ, and the floors."""
    for rule, size, directions in cases(stage.small):
        for direction in directions:
            about: dict[str, Any] = {"rule": rule, "size": size.name, **size._asdict(), "direction": direction}
            if stage.is_over:
                yield about | {"ours_ms": None, "theirs": "not run: out of time"}
                continue
            operands = given(size, stage.device, channels=rule == "kda")
            op = "affine_column" if rule == "kda" else "affine"
            mine, reads = measured(stage, ours(rule, pair_for(op, stage.backend)), operands, direction)
            about |= {"ours_ms": mine, **_beside(stage, rule, operands, direction, mine, reads)}
            if rule != "kda" and direction != "decode":
                count = size.batch * size.heads * size.tokens
                about |= {"floor": floor(card, rule, count, size.width, direction == "backward")._asdict()}
            yield about


def _beside(stage: Stage, rule: str, operands: Given, direction: str, mine: float, reads: Tensor) -> dict[str, Any]:
    try:
        other, found = measured(stage, theirs(rule, direction == "decode"), operands, direction)
    except ImportError as error:
        return {"theirs": f"not run: {str(error).splitlines()[0]}"}
    except Exception as error:  # a stranger's kernel on this card
        return {"theirs": f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    found = found.transpose(1, 2).float()
    norm = torch.linalg.vector_norm(found).clamp(min=1e-30)
    apart = torch.linalg.vector_norm(reads.float() - found) / norm
    return {"theirs": PEERS[rule], "theirs_ms": other, "ratio": mine / other, "reads_apart": float(apart)}


def against_plain_torch(stage: Stage) -> dict[str, Any]:
    """Titans with momentum, forward, against the same op in plain torch, at a size that both hold."""
    size = TINY if stage.small else Size(1, 16, 4096, 128)
    operands = given(size, stage.device)
    mine, _ = measured(stage, ours("titans", pair_for("affine", stage.backend)), operands, "forward")
    plain, _ = measured(stage, ours("titans", REFERENCE), operands, "forward")
    return {"rule": "titans", "size": size.name, "ours_ms": mine, "plain_torch_ms": plain, "times": plain / mine}
