"""Cases of the op `linked_linear` and their truth: its defining sums and the link in float64, by autograd."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import attrs
import torch
from hecate_kernels.pair import Launcher, Trial
from hecate_kernels.trials import DTYPES, Draw, Given, called, gradients, product, trial

from hecate_core.api import Tensor
from hecate_miras.linked_linear import LinkedReads
from hecate_miras.links import ENTRIES, LinkOption, linked

FOUR, THIRD = 4.0, 4.0 / 3.0
LINKS = {  # by what cases call them; levels with which evidence of a few units neither vanishes nor explodes
    "column": LinkOption("column", 4.0),
    "row": LinkOption("row", 1.0),
    "all": LinkOption("all", 16.0),
    "printed of q 4": LinkOption("printed", 1e-6, FOUR),
    "printed of q 4/3": LinkOption("printed", 1e-6, THIRD),
    "powered of q 4": LinkOption("powered", 1e-6, FOUR),
    "powered of q 4/3": LinkOption("powered", 1e-6, THIRD),
    **{kind: LinkOption(kind, 0.2) for kind in ENTRIES},
}
NETWORKS = ((400, 100), (100, 400), (512, 128), (128, 512), (1024, 256), (256, 1024))


@attrs.frozen
class _Case:
    length: int
    width: int
    dtype: torch.dtype
    view: bool
    values: int
    link: str
    parts: int
    seed: int
    group: int = 1  # updates per read

    @property
    def name(self) -> str:
        groups = f" of {self.group} updates" * (self.group > 1) + ", momentum" * (self.parts == 2)
        size = f"T {self.length}{groups}, {self.values} x {self.width}"
        return f"{self.link}, {size}, {called(self.dtype)}{', views' * self.view}"


def trials(pair: Callable[[Launcher], Any], thorough: bool) -> Iterable[Trial]:
    """A covering set: every length, size, dtype, layout, link and number of stored matrices occurs; or the product."""
    for case in _thorough() if thorough else _covering():
        given, back = _inputs(case)
        yield trial(
            case,
            partial(_run, pair, LINKS[case.link], given, back),
            (partial(_sums, LINKS[case.link]), given, back),
            quick=case.length <= 5 and case.width * case.values <= 64 * 16,
            heavy=case.length**2 * case.width * case.values > 1 << 25,  # every token forms its evidence
        )


def _covering() -> Iterator[_Case]:
    float32, bfloat16 = DTYPES
    rows = [
        (1, 16, float32, False, 16, "column", 2),
        (5, 12, float32, True, 20, "column", 2),
        (5, 20, float32, True, 12, "powered of q 4", 1),
        (3, 16, float32, False, 16, "row", 1),
        (16, 16, bfloat16, True, 64, "printed of q 4", 1),
        (4, 16, float32, True, 12, "printed of q 4/3", 2),
        (2, 16, float32, True, 20, "all", 1),
        (7, 100, float32, False, 100, "powered of q 4/3", 1),
        (33, 64, bfloat16, True, 16, "column", 1),
        (2, 128, float32, True, 128, "printed of q 4", 1),
        (63, 16, bfloat16, False, 16, "exponential", 2),
        (7, 20, float32, True, 12, "logistic", 1),
        (64, 16, float32, False, 20, "sinh", 2),
        (100, 16, float32, True, 12, "soft", 1),
        (257, 16, float32, False, 4, "arctan", 1),
        (4, 16, bfloat16, True, 16, "sinh", 1),
    ]
    for seed, row in enumerate(rows):
        yield _Case(*row, seed=seed, group=1 + (row[5] == "row"))


def _thorough() -> Iterator[_Case]:
    """Every length, size, dtype and layout, links in turn; every link, size and dtype at small lengths; networks."""
    turns, seeds = itertools.cycle(LINKS), itertools.count()
    for length, width, dtype, view in product():
        seed = next(seeds)
        yield _Case(length, width, dtype, view, width, next(turns), 1 + seed % 2, seed)
    sizes = ((16, 16), (100, 16), (16, 64), (64, 16))
    for length, (width, values), dtype, link in itertools.product((1, 3, 16), sizes, DTYPES, LINKS):
        seed = next(seeds)
        yield _Case(length, width, dtype, True, values, link, 1 + seed % 2, seed, group=1 + (length == 3))
    for (values, width), dtype, length in itertools.product(NETWORKS, DTYPES, (1, 18)):
        seed = next(seeds)
        yield _Case(length, width, dtype, bool(seed % 2), values, next(turns), 1 + seed % 2, seed)


def _inputs(case: _Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Reads, updates and shares; the gradient that comes back."""
    draw, updates = Draw.of(case.seed, case.view), case.length * case.group
    given = {
        "q": draw.laid(draw.unit(case.length, case.width), case.dtype),
        "u": draw.laid(draw.normal(updates, case.values), case.dtype),
        "x": draw.laid(draw.unit(updates, case.width), case.dtype),
        "stored": draw.normal(case.parts, case.values, case.width),
        "reach": draw.uniform(updates, updates).tril()[:, :, case.group - 1 :: case.group],
        "shares": draw.uniform(case.length, case.parts),
    }
    return given, {"y": draw.normal(case.length, case.values).to(case.dtype)}


def _run(pair_on: Callable[[Launcher], Any], link: LinkOption, given: Given, back: Given, where: Launcher) -> Given:
    pair, reads = pair_on(where), LinkedReads(**given)
    y = pair.forward(reads, link)
    return {"y": y, **gradients(pair.backward(reads, link, back["y"])._asdict())}


def _sums(link: LinkOption, **given: Tensor) -> Given:
    reads = LinkedReads(**given)
    evidence = torch.einsum("bhtj,bhjvk->bhtvk", reads.shares, reads.stored)
    evidence = evidence + torch.einsum("bhti,bhiv,bhik->bhtvk", reads.reach, reads.u, reads.x)
    return {"y": (linked(link, evidence) @ reads.q.unsqueeze(-1)).squeeze(-1)}
