"""Cases of the op `decayed_linear` and their truth: its defining sums in float64, by autograd."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hecate_core.api import DecayedLinearPair, Decays, Reads
from hecate_kernels.pair import Launcher, Outputs, Trial

NAMES = ("q", "u", "x", "stored", "reach", "reads", "ends", "carry")


class _Case(NamedTuple):
    tokens: int
    key_width: int
    value_width: int
    parts: int
    dtype: torch.dtype
    seed: int

    @property
    def name(self) -> str:
        made = "momentum" if self.parts == 2 else "no momentum"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{made}, chunk {self.tokens}, {self.value_width} x {self.key_width}, {dtype}"


def trials(pair: Callable[[Launcher], DecayedLinearPair], thorough: bool) -> Iterable[Trial]:
    """A covering set: every chunk, shape, dtype and number of parts occurs; or the full product."""
    for case in _cases(thorough):
        flat, d_y, d_end = _inputs(case)
        yield Trial(
            case.name,
            str(case.dtype).removeprefix("torch."),
            run=partial(_run, pair, flat, d_y, d_end),
            truth=partial(_truth, flat, d_y, d_end, torch.float64),
            single=partial(_truth, flat, d_y, d_end, torch.float32),
            quick=case.key_width * case.value_width <= 64 * 64,
        )


def _cases(thorough: bool) -> Iterator[_Case]:
    dtypes = (torch.float32, torch.bfloat16)
    if thorough:
        shapes = ((16, 16), (64, 64), (100, 100), (128, 128), (64, 256), (256, 64))
        product = itertools.product((1, 7, 16, 63, 64), shapes, (1, 2), dtypes)
        for seed, (count, widths, parts, dtype) in enumerate(product):
            if widths[0] < 256 or dtype is torch.bfloat16 or count <= 16:
                yield _Case(count, *widths, parts, dtype, seed)
        return
    float32, bfloat16 = dtypes
    rows = [
        (1, 16, 16, 2, float32),
        (7, 64, 64, 2, bfloat16),
        (31, 16, 48, 2, float32),
        (64, 64, 16, 1, bfloat16),
        (16, 100, 128, 1, float32),
    ]
    yield from (_Case(*row, seed) for seed, row in enumerate(rows))


def _inputs(case: _Case) -> tuple[list[Tensor], Tensor, Tensor]:
    batch, heads = lead = (1, 2)
    generator = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, heads, *shape, generator=generator)

    q, x = (torch.nn.functional.normalize(normal(case.tokens, case.key_width), dim=-1) for _ in range(2))
    u, d_y = (normal(case.tokens, case.value_width) for _ in range(2))
    stored, d_end = (normal(case.parts, case.value_width, case.key_width) for _ in range(2))
    shares = [torch.rand(*lead, *shape, generator=generator) for shape in _decay_shapes(case)]
    shares[0] = shares[0].tril()
    tokens = [one.transpose(1, 2).contiguous().transpose(1, 2).to(case.dtype) for one in (q, u, x)]
    return [*tokens, stored, *shares], d_y.to(case.dtype), d_end


def _decay_shapes(case: _Case) -> list[tuple[int, int]]:
    return [(case.tokens, case.tokens), (case.tokens, case.parts), (case.tokens, case.parts), (case.parts, case.parts)]


def _run(
    pair_on: Callable[[Launcher], DecayedLinearPair], flat: list[Tensor], d_y: Tensor, d_end: Tensor, where: Launcher
) -> Outputs:
    pair = pair_on(where)
    y, end, saved = pair.forward(Reads._make(flat[:3]), flat[3], Decays._make(flat[4:]))
    reads, d_stored, decays = pair.backward(saved, d_y, d_end)
    grads = dict(zip(NAMES, (*reads, d_stored, *decays), strict=True))
    return {"y": y, "end": end, **{f"d_{name}": one for name, one in grads.items()}}


def _truth(flat: list[Tensor], d_y: Tensor, d_end: Tensor, dtype: torch.dtype) -> Outputs:
    held = [one.detach().to(dtype, copy=True).requires_grad_() for one in flat]
    q, u, x, stored, reach, reads, ends, carry = held
    answers = torch.einsum("bhtk,bhjvk,bhtj->bhtv", q, stored, reads)
    y = answers + torch.einsum("bhti,bhik,bhtk,bhiv->bhtv", reach.tril(), x, q, u)
    end = torch.einsum("bhji,bhivk->bhjvk", carry, stored) + torch.einsum("bhtj,bhtv,bhtk->bhjvk", ends, u, x)
    torch.autograd.backward([y, end], [d_y.to(dtype), d_end.to(dtype)])
    grads = {f"d_{name}": one.grad for name, one in zip(NAMES, held, strict=True) if one.grad is not None}
    return {"y": y.detach(), "end": end.detach(), **grads}
