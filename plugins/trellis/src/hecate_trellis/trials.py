"""Cases of the op `trellis` and their truth: the recurrence in float64, its inner gradient by autograd too."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from hecate_kernels.pair import Launcher, Trial
from hecate_kernels.slot_trials import SlotCase, slot_trials
from hecate_kernels.trials import DTYPES, Draw, product

from hecate_core.api import Tensor
from hecate_trellis.maps import MAPS
from hecate_trellis.op import SIDES, TrellisTokens, option_of, options_in


def trials(pair: Callable[[Launcher], Any], thorough: bool) -> Iterable[Trial]:
    """A covering set: every length, size, dtype, map, side and layout occurs; or the product, see `_thorough`."""
    return slot_trials(_Trellis(), pair, _thorough() if thorough else _covering())


def _covering() -> Iterator[SlotCase]:
    float32, bfloat16 = DTYPES
    rows = [
        (1, 16, 16, float32, False, "silu, entries", True),
        (7, 128, 128, bfloat16, True, "silu, slots", False),
        (63, 6, 16, float32, True, "ln-silu, slots", True),
        (63, 6, 16, float32, False, "silu, entries", True),
        (64, 16, 64, bfloat16, False, "identity, entries", False),
        (100, 16, 16, bfloat16, True, "softmax, entries", True),
        (7, 100, 100, float32, True, "silu, entries", False),
        (257, 16, 16, float32, False, "silu, slots", True),
        (64, 64, 16, float32, False, "l2-silu, entries", False),
        (5, 70, 16, float32, False, "l2-silu, entries", False),  # warps have room for slots that no lane maps
    ]
    yield from (SlotCase(*row, seed=seed) for seed, row in enumerate(rows))
    yield SlotCase(36, 6, 40, float32, True, "ln-silu, entries", True, seed=0, far=True)


def _thorough() -> Iterator[SlotCase]:
    """Every length, size, dtype, layout and side, maps in turn; every map, side and dtype at small sizes, and at those
    that no registers hold."""
    turns, seeds = itertools.cycle(MAPS), itertools.count()
    for (length, width, dtype, view), side in itertools.product(product(), SIDES):
        seed = next(seeds)
        yield SlotCase(length, width, width, dtype, view, option_of(next(turns), side), seed % 3 == 0, seed)
    sizes = ((16, 16), (16, 64), (64, 16))
    for length, (width, entries), dtype, phi, side in itertools.product((1, 7, 100), sizes, DTYPES, MAPS, SIDES):
        seed = next(seeds)
        yield SlotCase(length, width, entries, dtype, True, option_of(phi, side), seed % 3 == 0, seed)
    far = ((1, 256, 256), (40, 130, 200))
    for (length, width, entries), dtype, phi, side in itertools.product(far, DTYPES, MAPS, SIDES):
        seed = next(seeds)
        yield SlotCase(length, width, entries, dtype, True, option_of(phi, side), seed % 3 == 0, seed)


class _Trellis:
    """Queries, writes and codes; the store is anything."""

    tokens = TrellisTokens
    state = "store"

    def inputs(self, case: SlotCase, draw: Draw) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
        turned = options_in(case.option)[1]
        asked, answered = (case.width, case.entries) if turned else (case.entries, case.width)
        given: dict[str, Tensor | None] = {
            "q": draw.laid(draw.unit(case.length, asked), case.dtype),
            "w": draw.laid(draw.unit(case.length, case.entries), case.dtype),
            "code": draw.laid(draw.normal(case.length, case.width), case.dtype),
            "retain": draw.uniform(case.length, low=0.8),
            "write": draw.uniform(case.length, high=0.3),
            "due": case.resting(draw),
            "store": draw.normal(case.width, case.entries),
        }
        d_out = draw.laid(draw.normal(case.length, answered), case.dtype)
        return given, {"y": d_out, "store": draw.normal(case.width, case.entries)}

    def walk(self, option: str, state: Tensor, tokens: TrellisTokens) -> tuple[Tensor, Tensor]:
        """Eq. 1 with the loss itself, differentiated twice by autograd."""
        phi, turned = options_in(option)
        q, w, code, retain, write, due = tokens
        s, reads = state, []
        for t in range(w.shape[2]):
            z = (s @ w[:, :, t, :, None]).squeeze(-1)
            loss = 0.5 * (MAPS[phi].value(z) - code[:, :, t]).square().sum()
            (u,) = torch.autograd.grad(loss, z, create_graph=True)
            new = retain[:, :, t, None, None] * s - write[:, :, t, None, None] * u[..., None] * w[:, :, t, None, :]
            s = new if due is None else torch.where(due[:, :, t, None, None], new, s)
            reads.append(((s.mT if turned else s) @ q[:, :, t, :, None]).squeeze(-1))
        return torch.stack(reads, 2), s
