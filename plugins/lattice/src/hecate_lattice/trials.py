"""Cases of the op `lattice` and their truth: the rule's step token by token in float64, by autograd."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from hecate_kernels.pair import Launcher, Trial
from hecate_kernels.slot_trials import SlotCase, slot_trials
from hecate_kernels.trials import DTYPES, Draw, product
from torch.nn.functional import normalize

from hecate_core.api import Params, State, Tensor, Tokens
from hecate_lattice.losses import LOSSES
from hecate_lattice.op import LatticeTokens
from hecate_lattice.rule import Lattice


def trials(pair: Callable[[Launcher], Any], thorough: bool) -> Iterable[Trial]:
    """A covering set: every length, size, dtype, loss and layout occurs; or the full product."""
    return slot_trials(_Lattice(), pair, _cases(thorough))


def _cases(thorough: bool) -> Iterator[SlotCase]:
    float32, bfloat16 = DTYPES
    if thorough:
        yield from _product()
        return
    rows = [
        (1, 16, 16, float32, False, "decode", True),
        (7, 128, 128, bfloat16, True, "similarity", True),
        (63, 6, 16, float32, True, "decode", True),
        (64, 16, 64, bfloat16, False, "encode", False),
        (100, 16, 16, bfloat16, True, "decode", False),
        (7, 100, 100, float32, True, "decode", False),
        (257, 16, 16, float32, False, "encode", True),
        (63, 64, 16, float32, False, "similarity", False),
        (2, 256, 256, float32, False, "decode", True),
    ]
    yield from (SlotCase(*row, seed=seed) for seed, row in enumerate(rows))
    yield SlotCase(36, 6, 40, float32, True, "decode", True, seed=0, far=True)


def _product() -> Iterator[SlotCase]:
    """Every length, size, dtype, layout and loss, gates in turn; oblong memories at two lengths, as those that no
    registers hold."""
    seeds = itertools.count()
    for length, width, dtype, view in product():
        for option in LOSSES:
            seed = next(seeds)
            yield SlotCase(length, width, width, dtype, view, option, seed // 3 % 2 == seed % 2, seed)
    for length, (width, entries), dtype, option in itertools.product((7, 100), ((16, 64), (64, 16)), DTYPES, LOSSES):
        yield SlotCase(length, width, entries, dtype, True, option, True, next(seeds))
    for length, (width, entries), dtype, option in itertools.product((1, 40), ((256, 256), (130, 200)), DTYPES, LOSSES):
        yield SlotCase(length, width, entries, dtype, True, option, True, next(seeds))


class _Lattice:
    """Codes, values, and slots near the sphere, not on it; what a gated case has besides is the decay."""

    tokens = LatticeTokens
    state = "slots"

    def inputs(self, case: SlotCase, draw: Draw) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
        q, k = (draw.laid(draw.unit(case.length, case.width), case.dtype) for _ in range(2))
        v, d_out = (draw.laid(draw.normal(case.length, case.entries), case.dtype) for _ in range(2))
        v = 2.0 * normalize(v.float(), dim=-1).to(case.dtype)  # encode amplifies rounding by the square of a value
        memory = normalize(draw.normal(case.entries, case.width), dim=-2) * (0.9 + 0.2 * draw.uniform(1, 1))
        given: dict[str, Tensor | None] = {
            "q": q,
            "k": k,
            "v": v,
            "write": draw.uniform(case.length),
            "retain": draw.uniform(case.length, low=0.5) if case.gated else None,
            "due": case.resting(draw),
            "slots": memory,
        }
        return given, {"y": d_out, "slots": draw.normal(case.entries, case.width)}

    def walk(self, option: str, state: Tensor, tokens: LatticeTokens) -> tuple[Tensor, Tensor]:
        """The rule's own `step`, from first slots as they are."""
        rule, reads = Lattice(variant=option, decay=tokens.retain is not None), []
        given = Tokens.of({name: one for name, one in tokens._asdict().items() if name != "due" and one is not None})
        for t in range(tokens.q.shape[2]):
            token = given.map(lambda one, t=t: one[:, :, t])  # type: ignore[misc]
            _, after = rule.step(Params(), State(memory=State(slots=state)), token)
            new = after.memory.slots
            state = new if tokens.due is None else torch.where(tokens.due[:, :, t, None, None], new, state)
            reads.append((state @ token.q.unsqueeze(-1)).squeeze(-1))
        return torch.stack(reads, 2), state
