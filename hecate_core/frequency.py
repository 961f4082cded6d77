"""Learned frequency: whether a level writes in a grain, or takes its step, is decided by what was read before.

The decision is made per row before the first token that it is about, so it sees nothing that it decides on and a result
is causal and the same however a text is cut. Specs: specs/levels.md, Eq. 7 to 9, for memories; specs/cms.md, Eq. 10 to
13, for chains of MLPs. Source: our own causal form.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from hecate_core.differentiation import autodiff
from hecate_core.records import State
from hecate_core.shapes import Bool, Float, Tensor

OPEN_AT_START = 1.0  # the bias: sigmoid(1) = 0.73, on the writing side of 1/2


class Grain(NamedTuple):
    """Tokens `begin` to `end` of a call, all of one grain, and how much each row wants to write there, `[B]`.

    `decided` says that the decision was made in this call and a gradient reaches it.
    """

    begin: int
    end: int
    wants: Float[Tensor, " B"]
    decided: bool

    @property
    def is_open(self) -> Bool[Tensor, " B"]:
        """Whether a row writes: it wants to more than not."""
        return self.wants > 0.5


class Wish(nn.Module):
    """g = sigmoid(w . m + b), how much each row wants to; it does iff g > 1/2. At the start all do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.full((1,), OPEN_AT_START))

    def wants(self, mean: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """g from the mean of what was read."""
        return torch.sigmoid((mean * self.weight.to(mean.dtype)).sum(-1) + self.bias.to(mean.dtype))


class FrequencyGate(Wish):
    """g = sigmoid(w . mean of the grain before + b); a row writes in a grain iff g > 1/2, and always in the first.

    State: `total` `[B, D]`, the sum over the present grain so far, and `wants` `[B]`, its decision. The gradient is
    that of straight-through estimation: dg = <dy, y written - y rested>, what writing changed in this grain's reads.
    """

    def __init__(self, width: int, grain: int) -> None:
        super().__init__(width)
        self._grain = grain

    def init_state(self, batch: int) -> State:
        """Nothing read, and open."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        total = torch.zeros(batch, self.weight.shape[0], dtype=wide, device=self.weight.device)
        return State(total=total, wants=torch.ones_like(total[:, 0]))

    @autodiff
    def forward(self, x: Float[Tensor, "B T D"], state: State) -> tuple[list[Grain], State]:
        """The grains of a call and their decisions; the state counts its tokens."""
        total, wants, decided = state.total, state.wants, False
        found: list[Grain] = []
        for begin, end, opens in self.pieces(state.position, x.shape[1]):
            if opens and state.position + begin:
                wants = self.wants(total / self._grain)
                total, decided = torch.zeros_like(total), True
            found.append(Grain(begin, end, wants, decided))
            total = total + x[:, begin:end].to(total.dtype).sum(1)
        return found, State(total=total, wants=wants, position=state.position + x.shape[1])

    def pieces(self, position: int, count: int) -> Iterator[tuple[int, int, bool]]:
        """`(begin, end, opens)` of a call's grains on the absolute grid."""
        begin = 0
        while begin < count:
            phase = (position + begin) % self._grain
            end = min(count, begin + self._grain - phase)
            yield begin, end, phase == 0
            begin = end


class _Judged(torch.autograd.Function):
    """y as it is; its cotangent also judges the decision by what the other one would have changed."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, wants: Tensor, change: Tensor) -> Tensor:
        ctx.save_for_backward(change)
        return y.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        (change,) = ctx.saved_tensors
        return dy, (dy * change).flatten(1).sum(1), None


def judged(y: Float[Tensor, "B H T V"], wants: Float[Tensor, " B"], change: Float[Tensor, "B H T V"]) -> Tensor:
    """y, with d wants = <dy, change> per row: `change` is the written read minus the rested one."""
    made: Tensor = _Judged.apply(y, wants, change)
    return made


class StepGate(Wish):
    """Whether a level of a chain takes the step that is due, decided by the period that ends with it.

    State: `total` `[B, D]`, the sum of what the level was given in the present period; `mean`, that of the period
    before the last decision; `step`, what that step changes or would have changed; `count` `[B]`, tokens pending.
    """

    def __init__(self, width: int, period: int, level: int) -> None:
        super().__init__(width)
        self.hecate_level, self._period = level, period

    def init_state(self, change: State) -> State:
        """Nothing read, nothing decided."""
        total = torch.zeros(change.up.shape[0], self.weight.shape[0], dtype=change.up.dtype, device=change.up.device)
        step = change.map(torch.zeros_like)
        return State(total=total, mean=torch.zeros_like(total), step=step, count=torch.zeros_like(total[:, 0]))

    def heard(self, x: Float[Tensor, "B T D"], state: State, position: int) -> State:
        """The state after more tokens of the period, or of the last one that begins among them."""
        last = (position + x.shape[1] - 1) // self._period * self._period - position
        seen = x[:, max(last, 0) :].detach().to(state.total.dtype).sum(1)
        return state.replace(total=seen if last >= 0 else state.total + seen)

    def judging(self, change: State, state: State) -> State:
        """The change to the bit; its gradient also judges the last decision, by what the step changes. Spec Eq. 13."""
        wants = self.wants(state.mean)
        lever = (wants - wants.detach()).view(-1, 1, 1)
        return State.of({name: one + lever * state.step[name] for name, one in change.items()})

    def decide(self, state: State) -> tuple[Bool[Tensor, "B 1 1"], Float[Tensor, "B D"]]:
        """Which rows take the step that is due, and the mean that says so."""
        mean = state.total / self._period
        return (self.wants(mean) > 0.5).view(-1, 1, 1), mean
