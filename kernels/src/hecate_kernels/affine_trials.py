"""Cases of the op `affine` and their truth: the recurrence token by token in float64, by autograd."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import attrs
import torch
from torch import Tensor

from hecate_core.api import AffinePair, AffineTokens
from hecate_kernels.pair import Launcher, Outputs, Trial

LENGTHS = (1, 7, 63, 64, 100, 257)
WIDTHS = (16, 64, 100, 128)
RULES = {  # which coefficients a rule has: erase, momentum, inject
    "hebbian": (False, False, False),
    "delta": (True, False, False),
    "titans": (True, True, False),
    "masked titans": (True, True, True),
    "omega": (True, True, True),  # GROUP changes in a row are one token: all see one memory, the last one moves it
}
GROUP = 3
CHUNK = 64


@attrs.frozen
class _Case:
    length: int
    width: int
    dtype: torch.dtype
    rule: str
    view: bool
    seed: int

    @property
    def name(self) -> str:
        laid = ", views" if self.view else ""
        return f"{self.rule}, T {self.length}, head {self.width}, {str(self.dtype).removeprefix('torch.')}{laid}"


def trials(pair: Callable[[Launcher], AffinePair], thorough: bool) -> Iterable[Trial]:
    """A covering set: every length, width, dtype, rule and layout occurs; or the full product."""
    for case in _cases(thorough):
        flat, d_out = _inputs(case)
        yield Trial(
            case.name,
            str(case.dtype).removeprefix("torch."),
            run=partial(_run, pair, flat, d_out),
            truth=partial(_truth, flat, d_out, torch.float64),
            single=partial(_truth, flat, d_out, torch.float32),
            quick=case.length <= 64 and case.width <= 64,
        )


def _cases(thorough: bool) -> Iterator[_Case]:
    dtypes = (torch.float32, torch.bfloat16)
    if thorough:
        product = itertools.product(LENGTHS, WIDTHS, dtypes, RULES, (False, True))
        yield from (_Case(*one, seed=seed) for seed, one in enumerate(product))
        return
    float32, bfloat16 = dtypes
    rows = [
        (1, 16, float32, "delta", False),
        (1, 100, bfloat16, "masked titans", True),
        (7, 64, bfloat16, "masked titans", True),
        (63, 16, float32, "titans", True),
        (64, 64, bfloat16, "delta", False),
        (64, 16, bfloat16, "hebbian", False),
        (100, 100, float32, "masked titans", True),
        (100, 128, bfloat16, "titans", False),
        (257, 16, float32, "hebbian", True),
        (63, 16, float32, "omega", False),
    ]
    yield from (_Case(*row, seed=seed) for seed, row in enumerate(rows))


def _inputs(case: _Case) -> tuple[list[Tensor | None], Tensor]:
    """q, k, v, five coefficients, memory, momentum, in this order; and the gradients that come back."""
    batch, heads = (1, 2)
    generator = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def gate(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, heads, case.length, generator=generator)

    def laid(x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous().transpose(1, 2) if case.view else x

    size = (batch, heads, case.length, case.width)
    q, k = (torch.nn.functional.normalize(normal(*size), dim=-1) for _ in range(2))
    erase, momentum, inject = RULES[case.rule]
    keep = gate(0.8, 1.0)
    keep[..., case.length // 2] = 0.0  # a product that divides by a decay would not survive this
    write = gate(0.0, 0.9)
    memory, surprise = (normal(batch, heads, case.width, case.width) for _ in range(2))
    coefficients = [
        keep,
        gate(0.0, 0.9) if erase else None,
        write,
        gate(0.0, 0.9) if momentum else None,
        (torch.rand(batch, heads, case.length, generator=generator) > 0.3).float() if inject else None,
    ]
    if case.rule == "omega":
        coefficients = _grouped(coefficients)
    tokens = [laid(one.to(case.dtype)) for one in (q, k, normal(*size))]
    return [*tokens, *coefficients, memory, surprise if momentum else None], laid(normal(*size).to(case.dtype))


def _grouped(coefficients: list[Tensor | None]) -> list[Tensor | None]:
    """As a window rule has them: decay at a group's ends, momentum that begins at 0 with every group but the first."""
    keep, erase, write, momentum, _ = coefficients
    assert keep is not None
    assert momentum is not None
    place = torch.arange(keep.shape[-1]) % GROUP
    keep = torch.where(place == GROUP - 1, keep, 1.0)
    momentum = torch.where(place == 0, torch.where(torch.arange(keep.shape[-1]) == 0, momentum, 0.0), 1.0)
    return [keep, erase, write, momentum, (place == GROUP - 1).float().expand_as(keep).contiguous()]


def _run(
    pair_on: Callable[[Launcher], AffinePair], flat: list[Tensor | None], d_out: Tensor, where: Launcher
) -> Outputs:
    pair = pair_on(where)
    tokens, memory, surprise = AffineTokens._make(flat[:8]), flat[8], flat[9]
    assert memory is not None
    y, end, surprise_end, saved = pair.forward(tokens, memory, surprise, CHUNK)
    ends = _end_gradients(memory, surprise)
    grads, d_memory, d_surprise = pair.backward(tokens, saved, CHUNK, d_out, ends)
    by_name = {f"d_{name}": one for name, one in grads._asdict().items()}
    found = {"y": y, "memory": end, "surprise": surprise_end, **by_name, "d_memory": d_memory, "d_surprise": d_surprise}
    return {name: one for name, one in found.items() if one is not None}


def _truth(flat: list[Tensor | None], d_out: Tensor, dtype: torch.dtype) -> Outputs:
    held = [None if one is None else one.detach().to(dtype, copy=True).requires_grad_() for one in flat]
    q, k, v, keep, erase, write, momentum, inject, memory, surprise = held
    if q is None or k is None or v is None or keep is None or write is None or memory is None:
        raise ValueError("only erase, momentum, inject and surprise may be left out")
    m, s, reads = memory, surprise, []
    for t in range(q.shape[2]):
        u = write[:, :, t, None] * v[:, :, t]
        if erase is not None:
            u = u - erase[:, :, t, None] * (m @ k[:, :, t, :, None]).squeeze(-1)
        new = u[..., None] * k[:, :, t, None, :]
        if s is not None and momentum is not None:
            new = s = momentum[:, :, t, None, None] * s + new
        m = keep[:, :, t, None, None] * m + (new if inject is None else inject[:, :, t, None, None] * new)
        reads.append((m @ q[:, :, t, :, None]).squeeze(-1))
    y = torch.stack(reads, 2)
    outputs = [y, m] if s is None else [y, m, s]
    ends = [one for one in _end_gradients(memory, surprise) if one is not None]
    torch.autograd.backward(outputs, [one.to(dtype) for one in (d_out, *ends)])
    names = (*AffineTokens._fields, "memory", "surprise")
    found = {f"d_{name}": one.grad for name, one in zip(names, held, strict=True) if one is not None}
    found |= {"y": y.detach(), "memory": m.detach(), "surprise": None if s is None else s.detach()}
    return {name: one for name, one in found.items() if one is not None}


def _end_gradients(memory: Tensor, surprise: Tensor | None) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(99)
    first = torch.randn(memory.shape, generator=generator)
    return first, None if surprise is None else torch.randn(memory.shape, generator=generator)
