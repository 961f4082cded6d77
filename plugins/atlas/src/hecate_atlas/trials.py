"""Cases of the op `newton_schulz` and their truth: the iteration in float64, by autograd."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import torch
from hecate_kernels.pair import Launcher, Trial
from hecate_kernels.trials import DTYPES, WIDTHS, Given, called, trial

from hecate_atlas.newton_schulz import COEFFICIENTS, FLOOR
from hecate_core.api import Tensor


@attrs.frozen
class _Case:
    count: int
    width: int  # keys
    values: int
    rank: int  # of the matrices: a momentum is a short sum of outer products
    dtype: torch.dtype
    view: bool
    coefficients: str
    steps: int
    seed: int

    length = 0

    @property
    def name(self) -> str:
        made = f"{self.coefficients} {self.steps}, rank {self.rank}"
        return f"{made}, {self.count} of {self.values} x {self.width}, {called(self.dtype)}{', views' * self.view}"


def trials(pair: Callable[[Launcher], Any], thorough: bool) -> Iterator[Trial]:
    """A covering set: every size, dtype, layout, kind of step and rank occurs; or the full product."""
    for case in _cases(thorough):
        random = torch.Generator().manual_seed(case.seed)
        left = torch.randn(case.count, case.values, case.rank, generator=random)
        matrix = (left @ torch.randn(case.count, case.rank, case.width, generator=random)).to(case.dtype)
        given = {"matrix": matrix.mT.contiguous().mT if case.view else matrix}
        back = {"result": torch.randn(matrix.shape, generator=random).to(case.dtype)}
        how = (case.steps, case.coefficients)
        truth = (partial(_iterated, *how), given, back)
        yield trial(case, partial(_run, pair, *how, given, back), truth, quick=case.values * case.width <= 1024)


def _cases(thorough: bool) -> Iterator[_Case]:
    float32, bfloat16 = DTYPES
    if thorough:
        sizes = [(width, width) for width in WIDTHS] + [(153, 16), (40, 7), (300, 64)]
        rows = [
            (4 if width < 64 else 2, width, values, rank, *how)
            for width, values in sizes
            for rank in (1, values // 2, 2 * width)
            for how in itertools.product(DTYPES, (False, True), COEFFICIENTS, (1, 5))
        ]
    else:
        rows = [
            (4, 40, 7, 3, float32, True, "muon", 3),
            (1, 16, 16, 32, float32, False, "polar", 5),
            (2, 153, 16, 8, bfloat16, True, "muon", 5),
            (1, 64, 64, 128, bfloat16, False, "muon", 5),
            (1, 100, 100, 10, float32, True, "muon", 5),
            (1, 128, 128, 128, float32, False, "muon", 2),
        ]
    yield from (_Case(*row, seed=seed) for seed, row in enumerate(rows))


def _run(
    pair_on: Callable[[Launcher], Any], steps: int, coefficients: str, given: Given, back: Given, where: Launcher
) -> Given:
    pair, matrix = pair_on(where), given["matrix"]
    result = pair.forward(matrix, steps, coefficients)
    return {"result": result, "d_matrix": pair.backward(matrix, steps, coefficients, back["result"])}


def _iterated(steps: int, coefficients: str, matrix: Tensor) -> Given:
    a, b, c = COEFFICIENTS[coefficients]
    x = matrix / (matrix.square().sum((-2, -1), keepdim=True).sqrt() + FLOOR)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + b * square @ x + c * square @ square @ x
    return {"result": x}
