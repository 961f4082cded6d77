"""Cases of the op `affine` and their truth: the recurrence token by token in float64, by autograd."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import attrs
import torch
from torch import Tensor

from hecate_core.api import AffinePair, AffineTokens
from hecate_kernels.pair import Launcher, Trial
from hecate_kernels.trials import Draw, Given, called, gradients, product, trial

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
    view: bool
    rule: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.rule}, T {self.length}, head {self.width}, {called(self.dtype)}{', views' * self.view}"


def trials(pair: Callable[[Launcher], AffinePair], thorough: bool) -> Iterable[Trial]:
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
        every = ((*size, rule) for size in product() for rule in RULES)
        yield from (_Case(*one, seed=seed) for seed, one in enumerate(every))
        return
    float32, bfloat16 = torch.float32, torch.bfloat16
    rows = [
        (1, 16, float32, False, "delta"),
        (1, 100, bfloat16, True, "masked titans"),
        (7, 64, bfloat16, True, "masked titans"),
        (63, 16, float32, True, "titans"),
        (64, 64, bfloat16, False, "delta"),
        (64, 16, bfloat16, False, "hebbian"),
        (100, 100, float32, True, "masked titans"),
        (100, 128, bfloat16, False, "titans"),
        (257, 16, float32, True, "hebbian"),
        (63, 16, float32, False, "omega"),
    ]
    yield from (_Case(*row, seed=seed) for seed, row in enumerate(rows))


def _inputs(case: _Case) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """Tokens and carried state, and the gradients that come back."""
    draw, size = Draw.of(case.seed, case.view), (case.length, case.width)
    erase, momentum, inject = RULES[case.rule]
    keep = draw.uniform(case.length, low=0.8)
    keep[..., case.length // 2] = 0.0  # a product that divides by a decay would not survive this
    tokens: dict[str, Tensor | None] = {
        "q": draw.laid(draw.unit(*size), case.dtype),
        "k": draw.laid(draw.unit(*size), case.dtype),
        "v": draw.laid(draw.normal(*size), case.dtype),
        "keep": keep,
        "erase": draw.uniform(case.length, high=0.9) if erase else None,
        "write": draw.uniform(case.length, high=0.9),
        "momentum": draw.uniform(case.length, high=0.9) if momentum else None,
        "inject": (draw.uniform(case.length) > 0.3).float() if inject else None,
    }
    if case.rule == "omega":
        tokens |= _grouped(keep, tokens["momentum"])
    square = (case.width, case.width)
    given = tokens | {"memory": draw.normal(*square), "surprise": draw.normal(*square) if momentum else None}
    back = {"y": draw.laid(draw.normal(*size), case.dtype), "memory": draw.normal(*square)}
    return given, back | ({"surprise": draw.normal(*square)} if momentum else {})


def _grouped(keep: Tensor, momentum: Tensor | None) -> dict[str, Tensor]:
    """As a window rule has them: decay at a group's ends, momentum that begins at 0 with every group but the first."""
    assert momentum is not None
    at = torch.arange(keep.shape[-1])
    place = at % GROUP
    return {
        "keep": torch.where(place == GROUP - 1, keep, 1.0),
        "momentum": torch.where(place == 0, torch.where(at == 0, momentum, 0.0), 1.0),
        "inject": (place == GROUP - 1).float().expand_as(keep).contiguous(),
    }


def _run(pair_on: Callable[[Launcher], AffinePair], given: Given, back: Given, where: Launcher) -> Given:
    pair, (*tokens, memory, surprise) = pair_on(where), given.values()
    flat = AffineTokens._make(tokens)
    y, end, surprise_end, saved = pair.forward(flat, memory, surprise, CHUNK)
    grads, *d_state = pair.backward(flat, saved, CHUNK, back["y"], (back["memory"], back.get("surprise")))
    by_state = dict(zip(("memory", "surprise"), d_state, strict=True))
    return {"y": y, "memory": end, "surprise": surprise_end, **gradients(grads._asdict() | by_state)}


def _recurrence(memory: Tensor, surprise: Tensor | None, **tokens: Tensor | None) -> Given:
    q, k, v, keep, erase, write, momentum, inject = AffineTokens(**tokens)  # type: ignore[arg-type]
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
    return {"y": torch.stack(reads, 2), "memory": m, "surprise": s}
