"""Cases of the op `affine_column` and their truth: the recurrence token by token in float64, by autograd."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hecate_core.api import ColumnPair, ColumnTokens
from hecate_kernels.affine_trials import CHUNK
from hecate_kernels.pair import Launcher, Trial
from hecate_kernels.trials import Draw, Given, called, gradients, product, trial


class _Case(NamedTuple):
    length: int
    width: int
    dtype: torch.dtype
    view: bool
    has_erase: bool
    seed: int

    @property
    def name(self) -> str:
        rule, laid = ("kda" if self.has_erase else "column hebbian"), ", views" * self.view
        return f"{rule}, T {self.length}, head {self.width}, {called(self.dtype)}{laid}"


def trials(pair: Callable[[Launcher], ColumnPair], thorough: bool) -> Iterable[Trial]:
    """A covering set: every length, width, dtype, rule and layout occurs; or the full product."""
    for case in _cases(thorough):
        given, back = _inputs(case)
        yield trial(
            case,
            partial(_run, pair, given, back),
            (_recurrence, given, back),
            quick=case.length <= 64 and case.width <= 64,
        )


def _cases(thorough: bool) -> Iterator[_Case]:
    if thorough:
        every = ((*size, has_erase) for size in product() for has_erase in (True, False))
        yield from (_Case(*one, seed) for seed, one in enumerate(every))
        return
    float32, bfloat16 = torch.float32, torch.bfloat16
    rows = [
        (1, 16, float32, False, True),
        (7, 64, bfloat16, True, True),
        (63, 16, float32, True, True),
        (64, 64, bfloat16, False, False),
        (100, 100, float32, True, True),
        (100, 128, bfloat16, False, True),
        (257, 16, float32, True, False),
    ]
    yield from (_Case(*row, seed) for seed, row in enumerate(rows))


def _inputs(case: _Case) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """Tokens and carried state, and the gradients that come back."""
    draw, size, square = Draw.of(case.seed, case.view), (case.length, case.width), (case.width, case.width)
    keep = draw.uniform(*size, low=0.6)
    keep[..., case.length // 2, ::3] = 0.0  # a product that divides by a decay would not survive this
    write = draw.uniform(case.length, high=0.9)
    given: dict[str, Tensor | None] = {
        "q": draw.laid(draw.unit(*size), case.dtype),
        "k": draw.laid(draw.unit(*size), case.dtype),
        "v": draw.laid(draw.normal(*size), case.dtype),
        "keep": keep,
        "erase": keep * write.unsqueeze(-1) if case.has_erase else None,
        "write": write,
        "memory": draw.normal(*square),
    }
    return given, {"y": draw.laid(draw.normal(*size), case.dtype), "memory": draw.normal(*square)}


def _run(pair_on: Callable[[Launcher], ColumnPair], given: Given, back: Given, where: Launcher) -> Given:
    pair, (*flat, memory) = pair_on(where), given.values()
    tokens = ColumnTokens._make(flat)
    y, end, saved = pair.forward(tokens, memory, CHUNK)
    grads, d_memory = pair.backward(tokens, saved, CHUNK, back["y"], back["memory"])
    return {"y": y, "memory": end, **gradients({**grads._asdict(), "memory": d_memory})}


def _recurrence(memory: Tensor, **tokens: Tensor | None) -> Given:
    q, k, v, keep, erase, write = ColumnTokens(**tokens)  # type: ignore[arg-type]
    m, reads = memory, []
    for t in range(q.shape[2]):
        u = write[:, :, t, None] * v[:, :, t]
        if erase is not None:
            u = u - (m @ (erase[:, :, t] * k[:, :, t])[..., None]).squeeze(-1)
        m = m * keep[:, :, t, None, :] + u[..., None] * k[:, :, t, None, :]
        reads.append((m @ q[:, :, t, :, None]).squeeze(-1))
    return {"y": torch.stack(reads, 2), "memory": m}
