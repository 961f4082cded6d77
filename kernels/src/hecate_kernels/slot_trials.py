"""Cases that all ops over a memory of slots share: sequence pairs, called and answered alike.

What differs between two of them is how tokens are drawn and the walk that is their truth.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

import attrs
import torch

from hecate_core.api import SequencePair
from hecate_kernels.pair import Launcher, Trial
from hecate_kernels.trials import Draw, Given, called, gradients, trial


@attrs.frozen
class SlotCase:
    """A text for a memory of `width` slots of `entries`; `gated` says that some tokens rest, and whatever else."""

    length: int
    width: int
    entries: int
    dtype: torch.dtype
    view: bool
    option: str
    gated: bool
    seed: int
    far: bool = False  # taken for a memory that no registers hold, whatever its size

    @property
    def name(self) -> str:
        """The case in words."""
        more = ", gates" * self.gated + ", views" * self.view + ", far" * self.far
        return f"{self.option}, T {self.length}, {self.width} slots of {self.entries}, {called(self.dtype)}{more}"

    def resting(self, draw: Draw) -> Any:
        """Where tokens are due `[B, H, T]`, the first one always; None where all are."""
        if not self.gated:
            return None
        due = draw.uniform(self.length) > 0.3
        due[..., 0] = True
        return due


class SlotOp(Protocol):
    """What one op brings: its tokens, how they are drawn, and its meaning token by token in plain torch."""

    tokens: type[Any]
    state: str  # what its memory is called

    def inputs(self, case: SlotCase, draw: Draw) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Tokens and state by name; the gradients that come back, of `y` and of the state."""
        ...

    def walk(self, option: str, state: Any, tokens: Any) -> tuple[Any, Any]:
        """Reads `[B, H, T, width]` and the state after the last token, differentiable."""
        ...


def slot_trials(
    op: SlotOp, pair: Callable[[Launcher], SequencePair[Any]], cases: Iterable[SlotCase]
) -> Iterable[Trial]:
    """The cases of a pair; the small and short ones are quick."""
    for case in cases:
        given, back = op.inputs(case, Draw.of(case.seed, case.view))
        run = partial(_run, op, partial(_far, pair) if case.far else pair, case.option, given, back)
        quick = case.length <= 64 and case.width <= 16
        yield trial(case, run, (partial(_walk, op, case.option), given, back), quick)


def _far(pair_on: Callable[[Launcher], Any], where: Launcher) -> Any:
    """The pair, for which registers hold nothing."""
    pair = pair_on(where)
    pair.most_floats = 0
    return pair


def _split(op: SlotOp, given: Given) -> tuple[Any, Any]:
    return given[op.state], op.tokens(**{name: one for name, one in given.items() if name != op.state})


def _run(
    op: SlotOp,
    pair_on: Callable[[Launcher], SequencePair[Any]],
    option: str,
    given: Given,
    back: Given,
    where: Launcher,
) -> Given:
    pair, (state, tokens) = pair_on(where), _split(op, given)
    y, end, saved = pair.forward(tokens, state, option)
    grads, d_state = pair.backward(tokens, saved, option, back["y"], back[op.state])
    by_token = {name: one for name, one in grads._asdict().items() if name != "due"}
    return {"y": y, op.state: end, **gradients({**by_token, op.state: d_state})}


def _walk(op: SlotOp, option: str, **given: Any) -> Given:
    y, end = op.walk(option, *_split(op, given))
    return {"y": y, op.state: end}
