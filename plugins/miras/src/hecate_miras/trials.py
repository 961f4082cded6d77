"""Cases of the op `linked_linear` and their truth: its defining sums and the link in float64, by autograd."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import attrs
import torch
from hecate_kernels.pair import Launcher, Outputs, Trial
from torch.nn.functional import normalize

from hecate_core.api import Tensor
from hecate_miras.linked_linear import LinkedReads
from hecate_miras.links import KINDS, LinkOption, linked

LEVELS = {"column": 4.0, "row": 1.0, "all": 16.0, "printed": 1e-6, "powered": 1e-6}
EXPONENTS = (4.0, 4.0 / 3.0)


@attrs.frozen
class _Case:
    count: int
    group: int  # updates per read
    keys: int
    values: int
    parts: int
    dtype: torch.dtype
    kind: str
    exponent: float
    seed: int

    @property
    def link(self) -> LinkOption:
        return LinkOption(self.kind, LEVELS[self.kind], self.exponent)

    @property
    def name(self) -> str:
        more = f" of q {self.exponent:.2f}" * (self.kind in ("printed", "powered")) + ", momentum" * (self.parts == 2)
        dtype = str(self.dtype).removeprefix("torch.")
        groups = f" of {self.group} updates" * (self.group > 1)
        return f"{self.kind}{more}, chunk {self.count}{groups}, {self.values} x {self.keys}, {dtype}"


def trials(pair: Callable[[Launcher], Any], thorough: bool) -> Iterable[Trial]:
    """A covering set: every chunk, size, dtype, link and number of stored matrices occurs; or the full product."""
    for case in _cases(thorough):
        reads, d_y = _inputs(case)
        yield Trial(
            case.name,
            str(case.dtype).removeprefix("torch."),
            run=partial(_run, pair, reads, case.link, d_y),
            truth=partial(_truth, reads, case.link, d_y, torch.float64),
            single=partial(_truth, reads, case.link, d_y, torch.float32),
            quick=case.count <= 5 and case.keys * case.values <= 64 * 16,  # a block per token
        )


def _cases(thorough: bool) -> Iterator[_Case]:
    float32, bfloat16 = dtypes = (torch.float32, torch.bfloat16)
    if thorough:
        sizes = ((16, 16), (64, 64), (100, 100), (128, 128), (16, 64), (64, 16))
        product = itertools.product((1, 3, 7, 16, 63, 64), sizes, dtypes, KINDS, EXPONENTS)
        for seed, (count, size, dtype, kind, exponent) in enumerate(product):
            if kind in ("printed", "powered") or exponent == EXPONENTS[0]:
                yield _Case(count, 1, *size, 1 + seed % 2, dtype, kind, exponent, seed)
        return
    four, third = EXPONENTS
    rows = [
        (1, 1, 16, 16, 2, float32, "column", four),
        (5, 1, 12, 20, 2, float32, "column", four),
        (5, 1, 20, 12, 1, float32, "powered", four),
        (3, 2, 16, 16, 1, float32, "row", four),
        (16, 1, 16, 64, 1, bfloat16, "printed", four),
        (4, 1, 16, 12, 2, float32, "printed", third),
        (2, 1, 16, 20, 1, float32, "all", four),
        (7, 1, 100, 100, 1, float32, "powered", third),
        (33, 1, 64, 16, 1, bfloat16, "column", four),
        (2, 1, 128, 128, 1, float32, "printed", four),
    ]
    yield from (_Case(*row, seed=seed) for seed, row in enumerate(rows))


def _inputs(case: _Case) -> tuple[LinkedReads, Tensor]:
    batch, heads = 1, 2
    random = torch.Generator().manual_seed(case.seed)
    updates = case.count * case.group

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, heads, *shape, generator=random)

    def share(*shape: int) -> Tensor:
        return torch.rand(batch, heads, *shape, generator=random)

    q, x = (normalize(normal(count, case.keys), dim=-1) for count in (case.count, updates))
    u = normal(updates, case.values)
    q, u, x = (one.transpose(1, 2).contiguous().transpose(1, 2).to(case.dtype) for one in (q, u, x))
    reach = share(updates, updates).tril()[:, :, case.group - 1 :: case.group]
    stored = normal(case.parts, case.values, case.keys)
    reads = LinkedReads(q, u, x, stored, reach, share(case.count, case.parts))
    return reads, normal(case.count, case.values).to(case.dtype)


def _run(
    pair_on: Callable[[Launcher], Any], reads: LinkedReads, link: LinkOption, d_y: Tensor, where: Launcher
) -> Outputs:
    pair = pair_on(where)
    y = pair.forward(reads, link)
    grads = pair.backward(reads, link, d_y)
    return {"y": y, **{f"d_{name}": one for name, one in grads._asdict().items()}}


def _truth(reads: LinkedReads, link: LinkOption, d_y: Tensor, dtype: torch.dtype) -> Outputs:
    held = LinkedReads._make(one.detach().to(dtype, copy=True).requires_grad_() for one in reads)
    evidence = torch.einsum("bhtj,bhjvk->bhtvk", held.shares, held.stored)
    evidence = evidence + torch.einsum("bhti,bhiv,bhik->bhtvk", held.reach, held.u, held.x)
    y = (linked(link, evidence) @ held.q.unsqueeze(-1)).squeeze(-1)
    y.backward(d_y.to(dtype))
    grads = {f"d_{name}": one.grad for name, one in held._asdict().items() if one.grad is not None}
    return {"y": y.detach(), **grads}
