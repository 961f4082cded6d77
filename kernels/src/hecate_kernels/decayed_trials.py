"""Cases of the op `decayed_linear` and their truth: its defining sums in float64, by autograd.

The op sees one chunk; a longer text is walked chunk by chunk, the stored matrices handed on and, backwards, their
gradient.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hecate_core.api import DecayedLinearPair, Decays, Reads
from hecate_kernels.pair import SHARED_LIMITS, Launcher, Trial
from hecate_kernels.trials import DTYPES, Draw, Given, SmallerCard, called, gradients, product, trial

CHUNK = 64
SMALL = SHARED_LIMITS["sm_86"]
TINY = 26 << 10  # no card's: what is small is cut into tiles there as what is large elsewhere
NAMES = (*Reads._fields, *Decays._fields)


class _Case(NamedTuple):
    length: int
    width: int
    dtype: torch.dtype
    view: bool
    parts: int
    values: int
    seed: int
    card: int = SHARED_LIMITS["sm_90a"]  # bytes of shared memory of one block

    @property
    def name(self) -> str:
        made, laid = ("momentum" if self.parts == 2 else "no momentum"), ", views" * self.view
        card = {SMALL: ", small card", TINY: ", tiny card"}.get(self.card, "")
        return f"{made}, T {self.length}, {self.values} x {self.width}, {called(self.dtype)}{laid}{card}"

    @property
    def chunks(self) -> list[int]:
        """Tokens of each."""
        return [min(CHUNK, self.length - first) for first in range(0, self.length, CHUNK)]


def trials(pair: Callable[[Launcher], DecayedLinearPair], thorough: bool) -> Iterable[Trial]:
    """A covering set: every length, shape, dtype, layout and number of parts occurs; or the full product."""
    for case in _cases(thorough):
        given, back = _inputs(case)
        yield trial(
            case,
            partial(_run, pair, given, back, case.card),
            (_sums, given, back),
            quick=case.length <= 64 and case.width * case.values <= 64 * 64,
        )


def _cases(thorough: bool) -> Iterator[_Case]:
    float32, bfloat16 = DTYPES
    if thorough:
        every = [(*size, parts, size[1]) for size in product() for parts in (1, 2)]
        tall = [(64, 256, bfloat16, True, parts, 64) for parts in (1, 2)] + [(16, 256, float32, False, 2, 64)]
        wide = [(64, 64, dtype, True, parts, 256) for dtype in DTYPES for parts in (1, 2)]
        yield from (_Case(*one, seed) for seed, one in enumerate(every + tall + wide))
        yield from _networks()
        return
    rows = [
        (1, 16, float32, False, 2, 16),
        (7, 64, bfloat16, True, 2, 64),
        (31, 16, float32, True, 2, 48),
        (63, 16, float32, False, 2, 16),
        (64, 64, bfloat16, False, 1, 16),
        (100, 100, float32, True, 1, 128),
        (257, 128, bfloat16, True, 2, 16),
    ]
    cut = [
        ((7, 512, float32, False, 2, 16), SMALL),
        ((5, 400, bfloat16, True, 2, 100), SMALL),
        ((9, 80, float32, True, 2, 16), TINY),
        ((9, 80, bfloat16, False, 2, 16), TINY),
    ]
    yield from (_Case(*row, seed) for seed, row in enumerate(rows))
    yield from (_Case(*row, seed, card) for seed, (row, card) in enumerate(cut))


def _networks() -> Iterator[_Case]:
    """Both factors of an MLP with four times as many hidden channels as its head has, on large and small cards.

    A single token in bfloat16 is left to `product`: its gradient by `ends` is one sum over all entries of the memory,
    and of 65,536 rounded ones little may be left.
    """
    cards = (SHARED_LIMITS["sm_90a"], SMALL)
    for seed, (head, dtype, parts, card) in enumerate(itertools.product((64, 100, 128), DTYPES, (1, 2), cards)):
        for values, width in ((4 * head, head), (head, 4 * head)):
            length = 1 if seed % 5 == 4 and dtype is torch.float32 else 64
            yield _Case(length, width, dtype, bool(seed % 2), parts, values, seed, card)
    for dtype in DTYPES:
        yield _Case(7, 1024, dtype, False, 2, 256, 0)
        yield _Case(7, 256, dtype, True, 2, 1024, 1, SMALL)
        yield _Case(7, 2145, dtype, True, 1, 64, 2)  # pairs of 64 channels, as Omega and Atlas map them


def _inputs(case: _Case) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """Operands and decays, `reach` within each token's chunk, the first matrices, and the gradients that come back."""
    draw, stored = Draw.of(case.seed, case.view), (case.parts, case.values, case.width)
    given = {
        "q": draw.laid(draw.unit(case.length, case.width), case.dtype),
        "u": draw.laid(draw.normal(case.length, case.values), case.dtype),
        "x": draw.laid(draw.unit(case.length, case.width), case.dtype),
        "reach": torch.cat([draw.uniform(one, min(CHUNK, case.length)).tril() for one in case.chunks], 2),
        "reads": draw.uniform(case.length, case.parts),
        "ends": draw.uniform(case.length, case.parts),
        "carry": draw.uniform(len(case.chunks), case.parts, case.parts),
        "stored": draw.normal(*stored),
    }
    back = {"y": draw.laid(draw.normal(case.length, case.values), case.dtype), "stored": draw.normal(*stored)}
    return dict(given), back


def _chunks(given: Given) -> Iterator[tuple[Reads, Decays]]:
    """The op's arguments chunk by chunk, as views."""
    length = given["q"].shape[2]
    for first in range(0, length, CHUNK):
        some = slice(first, min(first + CHUNK, length))
        reach = given["reach"][:, :, some, : some.stop - first]
        decays = Decays(
            reach, given["reads"][:, :, some], given["ends"][:, :, some], given["carry"][:, :, first // CHUNK]
        )
        yield Reads(*(given[name][:, :, some] for name in Reads._fields)), decays


def _run(
    pair_on: Callable[[Launcher], DecayedLinearPair], given: Given, back: Given, card: int, where: Launcher
) -> Given:
    pair, stored, walked = pair_on(SmallerCard(where, card)), given["stored"], []
    for reads, decays in _chunks(given):
        y, stored, saved = pair.forward(reads, stored, decays)
        walked.append((y, saved))
    found = {"y": torch.cat([y for y, _ in walked], 2), "stored": stored}
    later, d_stored, grads = back["y"].split([y.shape[2] for y, _ in walked], 2), back["stored"], []
    for (_, saved), d_y in zip(reversed(walked), reversed(later), strict=True):
        by_reads, d_stored, by_decays = pair.backward(saved, d_y, d_stored)
        wide = given["reach"].shape[3] - by_decays.reach.shape[3]
        reach = torch.nn.functional.pad(by_decays.reach, (0, wide))
        grads.append((*by_reads, *by_decays._replace(reach=reach, carry=by_decays.carry.unsqueeze(2))))
    joined = {name: torch.cat(parts[::-1], 2) for name, parts in zip(NAMES, zip(*grads, strict=True), strict=True)}
    return found | gradients(joined | {"stored": d_stored})


def _sums(**given: Tensor) -> Given:
    stored, answers = given["stored"], []
    for (q, u, x), (reach, reads, ends, carry) in _chunks(given):
        answers.append(
            torch.einsum("bhtk,bhjvk,bhtj->bhtv", q, stored, reads)
            + torch.einsum("bhti,bhik,bhtk,bhiv->bhtv", reach.tril(), x, q, u)
        )
        stored = torch.einsum("bhji,bhivk->bhjvk", carry, stored) + torch.einsum("bhtj,bhtv,bhtk->bhjvk", ends, u, x)
    return {"y": torch.cat(answers, 2), "stored": stored}
