"""A chain of MLPs in the channel half of a block, each with a pace of its own: the continuum memory system.

Every level computes on every token; what is periodic is learning. A SLOW level is updated by the optimizer at its own
steps; a FAST one (`rate` > 0) also learns while it reads, by a change of its weights that is state. Spec: specs/cms.md.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import attrs
import torch
from torch import nn

from hecate_core.aggregation import Aggregation
from hecate_core.channel import SwiGLU
from hecate_core.errors import CompositionError
from hecate_core.frequency import StepGate
from hecate_core.levels import ChainLevel, levels_of, strikes
from hecate_core.records import State
from hecate_core.shapes import Bool, Float, Tensor

Deployment = Literal["sequential", "nested", "independent"]
DEPLOYMENTS = ("sequential", "nested", "independent")

Changes = Mapping[str, Tensor]
"""Of one level, by weight: "up" `[B, 2F, D]` and "down" `[B, D, F]`."""


class CMS(nn.Module):
    """y = MLP_k(... MLP_1(x)), level 0 the fastest and nearest to the mixer; or an aggregate of the MLP_l(x).

    `deployment`: "sequential" lets every level start from what the outer loop learned and go on for good; "nested"
    starts a level anew whenever the next slower one learns; "independent" puts them side by side. With `skip` every
    level of a chain adds to what it was given, and y is all that was added. `grain` is the tokens per tick of the
    token clock. `first` is the index of level 0 among all levels that an optimizer knows.
    Source: [2512.24695] Eq. 70-74.
    """

    def __init__(
        self,
        width: int,
        levels: object = None,
        *,
        deployment: str = "sequential",
        aggregate: str = "softmax",
        skip: bool = True,
        grain: int = 64,
        expansion: float = 8 / 3,
        first: int = 0,
    ) -> None:
        super().__init__()
        if deployment not in DEPLOYMENTS:
            raise CompositionError(f'cms: deployment = "{deployment}"; expected {", ".join(DEPLOYMENTS)}')
        if grain < 1:
            raise CompositionError(f"cms: grain = {grain}; expected an integer >= 1")
        self.specs = _scheduled(levels_of(levels, ChainLevel), deployment)
        self.grain = grain
        self._skip, self._side_by_side = skip, deployment == "independent"
        self.levels = nn.ModuleList(ChainMLP(width, expansion, first + index) for index in range(len(self.specs)))
        self.aggregate = Aggregation(aggregate, len(self.specs)) if self._side_by_side else None
        self.frequencies = nn.ModuleDict({
            f"level{index}": StepGate(width, spec.write_period * grain, first + index)
            for index, spec in enumerate(self.specs) if spec.frequency == "learned"
        })  # fmt: skip

    def init_state(self, batch: int) -> State:
        """No change and nothing pending, for every FAST level; a level that is not FAST carries nothing."""
        made = {f"level{i}": self._fresh(i, batch) for i, spec in enumerate(self.specs) if spec.rate}
        return State.of(made)

    def forward(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Every level over every token; the clock moves on, levels whose context ends return to their start.

        Where `starts` is True a document begins: what the row's FAST levels had learned is gone from there on, and the
        row's changes have a gradient of 0 over this call.
        """
        added: list[Tensor] = []
        seen, after = x, dict(state)
        for index, spec in enumerate(self.specs):
            if spec.rate:
                y, after[f"level{index}"] = self._changed(index, seen, state[f"level{index}"], state.position, starts)
            else:
                y = self._mlp(index)(seen)
            added.append(y)
            if not self._side_by_side:
                seen = seen + y if self._skip else y
        end = State.of(after).replace(position=state.position + x.shape[1])
        if self.aggregate is not None:
            answer: Tensor = self.aggregate(added)
            return answer, end
        total = added[0] if self._skip else added[-1]
        for y in added[1:] if self._skip else ():
            total = total + y
        return total, end

    def learned(self, state: State, grads: Mapping[str, Changes], count: int) -> State:
        """The state after FAST levels saw the gradient of `count` tokens' summed loss, read just before `state`.

        `grads` maps "levelN" to the gradients by its change. A level whose clock strikes at this position takes its
        step: change <- change - rate * (sum of its period, or mean per token); where its frequency is learned, in the
        rows that want to. Spec Eq. 5 to 7, 10 to 12.
        """
        after = dict(state)
        for index, spec in enumerate(self.specs):
            name = f"level{index}"
            if not spec.rate or _strikes(state.position, spec.reset_period, self.grain):
                continue  # just begun anew: what was pending belonged to the context before
            level = state[name]
            total = State.of({key: level.pending[key] + grads[name][key] for key in level.pending})
            if name in self.frequencies:
                after[name] = self._decided(index, level, total, state.position, count)
                continue
            seen = level.pending.position + count
            if not self.steps_at(index, state.position):
                after[name] = level.replace(pending=total.replace(position=seen))
                continue
            step = spec.rate / (seen if spec.reduce == "mean" else 1)
            moved = {key: one - step * total[key] for key, one in level.change.items()}
            after[name] = State(change=State.of(moved), pending=total.map(torch.zeros_like))
        return State.of(after).replace(position=state.position)

    def _decided(self, index: int, level: State, total: State, position: int, count: int) -> State:
        """A level of learned frequency: where its clock strikes, rows that want to step, others go on gathering."""
        gate, spec, frequency = self._gate(index), self.specs[index], level.frequency
        seen = frequency.count + count
        if not self.steps_at(index, position):
            return level.replace(pending=total, frequency=frequency.replace(count=seen))
        opens, mean = gate.decide(frequency)
        scale = spec.rate / (seen.view(-1, 1, 1) if spec.reduce == "mean" else 1)
        step = total.map(lambda one: -scale * one)
        moved = {key: torch.where(opens, one + step[key], one) for key, one in level.change.items()}
        left = total.map(lambda one: torch.where(opens, 0.0, one))
        count_left = torch.where(opens.flatten(), 0.0, seen)
        decided = frequency.replace(mean=mean, step=step, count=count_left)
        return State(change=State.of(moved), pending=left, frequency=decided)

    def clocks(self, position: int, count: int) -> set[int]:
        """Counts of tokens, 1 to `count`, after which a FAST level learns or begins anew."""
        found: set[int] = set()
        for spec in self.specs:
            for period in (spec.write_period, spec.reset_period) if spec.rate else ():
                found |= set(strikes(position, count, period, self.grain))
        return found

    def steps_at(self, index: int, position: int) -> bool:
        """Whether a FAST level takes a step after `position` tokens."""
        spec = self.specs[index]
        resets = _strikes(position, spec.reset_period, self.grain)
        return bool(spec.rate) and _strikes(position, spec.write_period, self.grain) and not resets

    def finest(self) -> int:
        """The greatest number of tokens that every FAST clock is a multiple of; 0 where no level is FAST."""
        periods = [period for spec in self.specs if spec.rate for period in (spec.write_period, spec.reset_period)]
        return math.gcd(*periods) * self.grain

    def stack(self, mlps: Sequence[SwiGLU]) -> None:
        """Start every level from the weights of a given MLP, one per level, in the order of the chain.

        Raises CompositionError where their number or their widths differ.
        """
        mine = [self._mlp(index) for index in range(len(self.specs))]
        if len(mlps) != len(mine):
            raise CompositionError(f"cms.stack: {len(mlps)} MLPs for {len(mine)} levels; expected one per level")
        for index, (own, given) in enumerate(zip(mine, mlps, strict=True)):
            if own.up.weight.shape != given.up.weight.shape or own.down.weight.shape != given.down.weight.shape:
                raise CompositionError(
                    f"cms.stack: MLP {index} has weights of {list(given.up.weight.shape)}; "
                    f"its level has {list(own.up.weight.shape)}"
                )
            own.load_state_dict(given.state_dict())

    def _changed(
        self, index: int, x: Tensor, level: State, position: int, starts: Tensor | None
    ) -> tuple[Tensor, State]:
        """A FAST level over the runs between the tokens where its context ends."""
        gone = None if starts is None else starts.any(1).view(-1, 1, 1)
        if gone is not None:  # only tokens before a start meet the change: what they say of it must not outlive it
            level = level.replace(change=level.change.map(lambda one: torch.where(gone, one.detach(), one)))
        ends = strikes(position, x.shape[1], self.specs[index].reset_period, self.grain)
        outputs, begin = [], 0
        for end in (*ends, x.shape[1]):
            piece = x[:, begin:end]
            if "frequency" in level and end > begin:
                heard = self._gate(index).heard(piece, level.frequency, position + begin)
                level = level.replace(frequency=heard)
            outputs.append(self._of_documents(index, piece, level, None if starts is None else starts[:, :end]))
            if end in ends:
                level = self._fresh(index, x.shape[0])
            begin = end
        if gone is not None:
            level = level.map(lambda one: one.masked_fill(gone.view(-1, *(1,) * (one.dim() - 1)), 0.0))
        return torch.cat(outputs, 1) if ends else outputs[0], level

    def _of_documents(self, index: int, x: Tensor, level: State, starts: Tensor | None) -> Tensor:
        """The level over one run; rows where a document has begun by then see the outer loop's weights alone."""
        mlp, change = self._mlp(index), level.change
        if "frequency" in level:
            change = self._gate(index).judging(change, level.frequency)
        y: Tensor = mlp(x, change)
        if starts is None:
            return y
        begun = starts.cumsum(1)[:, starts.shape[1] - x.shape[1] :] > 0
        return torch.where(begun.unsqueeze(-1), mlp(x), y)

    def _fresh(self, index: int, batch: int) -> State:
        mlp = self._mlp(index)
        shapes = {"up": mlp.up.weight, "down": mlp.down.weight}
        zeros = {
            name: torch.zeros(batch, *one.shape, dtype=torch.promote_types(one.dtype, torch.float32), device=one.device)
            for name, one in shapes.items()
        }
        state = State(change=State.of(zeros), pending=State.of({name: one.clone() for name, one in zeros.items()}))
        if f"level{index}" in self.frequencies:
            state = state.replace(frequency=self._gate(index).init_state(state.change))
        return state

    def _gate(self, index: int) -> StepGate:
        gate = self.frequencies[f"level{index}"]
        assert isinstance(gate, StepGate)
        return gate

    def _mlp(self, index: int) -> "ChainMLP":
        mlp = self.levels[index]
        assert isinstance(mlp, ChainMLP)
        return mlp


def _strikes(position: int, period: int, grain: int) -> bool:
    return period > 0 and position > 0 and position % (period * grain) == 0


class ChainMLP(SwiGLU):
    """One level's MLP; its parameters belong to the optimizer's level of that index."""

    def __init__(self, width: int, expansion: float, level: int) -> None:
        super().__init__(width, expansion)
        self.hecate_level = level


def _scheduled(specs: Sequence[ChainLevel], deployment: str) -> tuple[ChainLevel, ...]:
    """The specs with the resets that a nested chain derives from its periods; CompositionError for what cannot be."""
    for index, spec in enumerate(specs):
        if spec.gates:
            raise CompositionError(f"cms.levels[{index}].gates: an MLP has no gates to narrow; drop it")
        if spec.frequency == "learned" and not (index and spec.rate):
            why = "takes no step while it reads; give it a rate" if index else "is the fastest and always steps"
            raise CompositionError(f'cms.levels[{index}].frequency = "learned": the level {why}, or expected "fixed"')
    if deployment != "nested":
        return tuple(specs)
    nested: list[Any] = []
    for index, (spec, slower) in enumerate(pairwise(specs)):
        if spec.reset_period:
            raise CompositionError(
                f"cms.levels[{index}].reset_period = {spec.reset_period}: nested levels begin anew when the next "
                'slower one learns; drop it, or choose deployment = "sequential"'
            )
        if slower.write_period <= spec.write_period:
            raise CompositionError(
                f"cms.levels[{index + 1}].write_period = {slower.write_period}: nested needs each level slower than "
                f"the one before it ({spec.write_period})"
            )
        steps = math.ceil(slower.write_period / spec.write_period)
        nested.append(attrs.evolve(spec, reset_period=steps * spec.write_period))
    return (*nested, specs[-1])
