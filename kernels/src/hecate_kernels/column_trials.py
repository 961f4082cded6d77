"""Cases of the op `affine_column` and their truth: the recurrence token by token in float64, by autograd."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hecate_core.api import ColumnPair, ColumnTokens
from hecate_kernels.affine_trials import CHUNK, LENGTHS, WIDTHS
from hecate_kernels.pair import Launcher, Outputs, Trial


class _Case(NamedTuple):
    length: int
    width: int
    dtype: torch.dtype
    has_erase: bool
    view: bool
    seed: int

    @property
    def name(self) -> str:
        rule, laid = ("kda" if self.has_erase else "column hebbian"), ", views" if self.view else ""
        return f"{rule}, T {self.length}, head {self.width}, {str(self.dtype).removeprefix('torch.')}{laid}"


def trials(pair: Callable[[Launcher], ColumnPair], thorough: bool) -> Iterable[Trial]:
    """A covering set: every length, width, dtype, rule and layout occurs; or the full product."""
    for case in _cases(thorough):
        tokens, memory, d_out = _inputs(case)
        yield Trial(
            case.name,
            str(case.dtype).removeprefix("torch."),
            run=partial(_run, pair, tokens, memory, d_out),
            truth=partial(_truth, tokens, memory, d_out, torch.float64),
            single=partial(_truth, tokens, memory, d_out, torch.float32),
            quick=case.length <= 64 and case.width <= 64,
        )


def _cases(thorough: bool) -> Iterator[_Case]:
    dtypes = (torch.float32, torch.bfloat16)
    if thorough:
        product = itertools.product(LENGTHS, WIDTHS, dtypes, (True, False), (False, True))
        yield from (_Case(*one, seed) for seed, one in enumerate(product))
        return
    float32, bfloat16 = dtypes
    rows = [
        (1, 16, float32, True, False),
        (7, 64, bfloat16, True, True),
        (63, 16, float32, True, True),
        (64, 64, bfloat16, False, False),
        (100, 100, float32, True, True),
        (100, 128, bfloat16, True, False),
        (257, 16, float32, False, True),
    ]
    yield from (_Case(*row, seed) for seed, row in enumerate(rows))


def _inputs(case: _Case) -> tuple[ColumnTokens, Tensor, Tensor]:
    batch, heads = (1, 2)
    generator = torch.Generator().manual_seed(case.seed)
    size = (batch, heads, case.length, case.width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def laid(x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous().transpose(1, 2).to(case.dtype) if case.view else x.to(case.dtype)

    q, k = (torch.nn.functional.normalize(normal(*size), dim=-1) for _ in range(2))
    keep = 0.6 + 0.4 * torch.rand(*size, generator=generator)
    keep[..., case.length // 2, ::3] = 0.0  # a product that divides by a decay would not survive this
    write = 0.9 * torch.rand(*size[:3], generator=generator)
    erase = keep * write.unsqueeze(-1) if case.has_erase else None
    memory = normal(batch, heads, case.width, case.width)
    return ColumnTokens(laid(q), laid(k), laid(normal(*size)), keep, erase, write), memory, laid(normal(*size))


def _run(
    pair_on: Callable[[Launcher], ColumnPair], tokens: ColumnTokens, memory: Tensor, d_out: Tensor, where: Launcher
) -> Outputs:
    pair = pair_on(where)
    y, end, saved = pair.forward(tokens, memory, CHUNK)
    grads, d_memory = pair.backward(tokens, saved, CHUNK, d_out, _end_gradient(memory))
    by_name = {f"d_{name}": one for name, one in grads._asdict().items() if one is not None}
    return {"y": y, "memory": end, **by_name, "d_memory": d_memory}


def _truth(tokens: ColumnTokens, memory: Tensor, d_out: Tensor, dtype: torch.dtype) -> Outputs:
    flat = [None if one is None else one.detach().to(dtype, copy=True).requires_grad_() for one in (*tokens, memory)]
    q, k, v, keep, erase, write, first = flat
    if q is None or k is None or v is None or keep is None or write is None or first is None:
        raise ValueError("only erase may be left out")
    m, reads = first, []
    for t in range(q.shape[2]):
        u = write[:, :, t, None] * v[:, :, t]
        if erase is not None:
            u = u - (m @ (erase[:, :, t] * k[:, :, t])[..., None]).squeeze(-1)
        m = m * keep[:, :, t, None, :] + u[..., None] * k[:, :, t, None, :]
        reads.append((m @ q[:, :, t, :, None]).squeeze(-1))
    y = torch.stack(reads, 2)
    torch.autograd.backward([y, m], [one.to(dtype) for one in (d_out, _end_gradient(memory))])
    names = (*ColumnTokens._fields, "memory")
    grads = {f"d_{name}": one.grad for name, one in zip(names, flat, strict=True) if one is not None}
    found = {"y": y.detach(), "memory": m.detach(), **grads}
    return {name: one for name, one in found.items() if one is not None}


def _end_gradient(memory: Tensor) -> Tensor:
    return torch.randn(memory.shape, generator=torch.Generator().manual_seed(99))
