"""Cases of the op `newton_schulz` and their truth: the iteration in float64, by autograd."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import torch
from hecate_kernels.pair import Launcher, Outputs, Trial

from hecate_atlas.newton_schulz import COEFFICIENTS, FLOOR
from hecate_core.api import Tensor


@attrs.frozen
class _Case:
    count: int
    values: int
    keys: int
    rank: int  # of the matrices: a momentum is a short sum of outer products
    dtype: torch.dtype
    coefficients: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        made = f"{self.coefficients} {self.steps}, rank {self.rank}"
        return f"{made}, {self.count} of {self.values} x {self.keys}, {dtype}"


def trials(pair: Callable[[Launcher], Any], thorough: bool) -> Iterator[Trial]:
    """A covering set: every size, dtype, kind of step and rank occurs; or the full product."""
    for case in _cases(thorough):
        random = torch.Generator().manual_seed(case.seed)
        left = torch.randn(case.count, case.values, case.rank, generator=random)
        matrix = (left @ torch.randn(case.count, case.rank, case.keys, generator=random)).to(case.dtype)
        d_out = torch.randn(matrix.shape, generator=random).to(case.dtype)
        given = (matrix.mT.contiguous().mT, case.steps, case.coefficients, d_out)
        yield Trial(
            case.name,
            str(case.dtype).removeprefix("torch."),
            run=partial(_run, pair, *given),
            truth=partial(_truth, *given, torch.float64),
            single=partial(_truth, *given, torch.float32),
            quick=case.values * case.keys <= 1024,
        )


def _cases(thorough: bool) -> Iterator[_Case]:
    float32, bfloat16 = torch.float32, torch.bfloat16
    if thorough:
        sizes = ((16, 16), (16, 153), (7, 40), (64, 64), (64, 300), (100, 100), (128, 128))
        rows = [
            (2, *size, rank, dtype, coefficients, steps)
            for size in sizes
            for rank in (1, size[0] // 2, 2 * size[1])
            for dtype in (float32, bfloat16)
            for coefficients in COEFFICIENTS
            for steps in (1, 5)
        ]
    else:
        rows = [
            (3, 7, 40, 3, float32, "muon", 3),
            (1, 16, 16, 32, float32, "polar", 5),
            (2, 16, 153, 8, bfloat16, "muon", 5),
            (1, 64, 64, 128, bfloat16, "muon", 5),
            (1, 100, 100, 10, float32, "muon", 5),
            (1, 128, 128, 128, float32, "muon", 2),
        ]
    yield from (_Case(*row, seed=seed) for seed, row in enumerate(rows))


def _run(
    pair_on: Callable[[Launcher], Any], matrix: Tensor, steps: int, coefficients: str, d_out: Tensor, where: Launcher
) -> Outputs:
    pair = pair_on(where)
    return {
        "result": pair.forward(matrix, steps, coefficients),
        "d_matrix": pair.backward(matrix, steps, coefficients, d_out),
    }


def _truth(matrix: Tensor, steps: int, coefficients: str, d_out: Tensor, dtype: torch.dtype) -> Outputs:
    a, b, c = COEFFICIENTS[coefficients]
    held = matrix.to(dtype, copy=True).requires_grad_()
    x = held / (held.square().sum((-2, -1), keepdim=True).sqrt() + FLOOR)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + b * square @ x + c * square @ square @ x
    (d_matrix,) = torch.autograd.grad(x, held, d_out.to(dtype))
    return {"result": x.detach(), "d_matrix": d_matrix}
