"""Compositions with a fault."""

from typing import Any

import torch
from torch import nn

from hecate_core.api import State, Tensor
from hecate_core.output_gate import OutputGate
from hecate_core.testing import check_composition

from .planting import planted


class _Reads(nn.Module):
    """LMM in short, for faults to stand on."""

    attends, remembers, recalls = False, True, False

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.gate = OutputGate(width)

    def forward(self, x: Tensor, memory: Any, attention: Any, state: State, write: Any = None) -> Any:
        read, after = memory.absorb(x, state.memory, write)
        return self.gate(read, x), state.replace(memory=after)


@planted("is-causal", check_composition)
class MeanOverTheCall(_Reads):
    def forward(self, x: Tensor, *given: Any) -> Any:
        y, state = super().forward(x, *given)
        return y + 0.01 * x.mean(1, keepdim=True), state


@planted("splits-change-nothing", check_composition)
class StaleConvolutionState(_Reads):
    def forward(self, x: Tensor, memory: Any, attention: Any, state: State, write: Any = None) -> Any:
        y, after = super().forward(x, memory, attention, state, write)
        old = state.memory.level0.front
        stale = after.memory.replace(level0=after.memory.level0.replace(front=old.replace(position=after.position)))
        return y, after.replace(memory=stale)


@planted("memory-is-written-once-per-token", check_composition)
class WritesTwice(_Reads):
    def forward(self, x: Tensor, memory: Any, attention: Any, state: State, write: Any = None) -> Any:
        _, once = memory.absorb(x, state.memory, write)
        return super().forward(x, memory, attention, state.replace(memory=once), write)


@planted("memory-is-heard", check_composition)
class MemoryThatIsNotHeard(_Reads):
    def forward(self, x: Tensor, *given: Any) -> Any:
        _, state = super().forward(x, *given)
        return self.gate(x, x), state


@planted("a-write-mask-reaches-the-memory", check_composition)
class MaskThatIsDropped(_Reads):
    def forward(self, x: Tensor, memory: Any, attention: Any, state: State, write: Any = None) -> Any:
        return super().forward(x, memory, attention, state, None)


@planted("same-call-same-bits", check_composition)
class DropoutWhileLearning(_Reads):
    def forward(self, x: Tensor, *given: Any) -> Any:
        y, state = super().forward(x, *given)
        return y * 2.0 if self.training else y, state


@planted("rows-are-independent", check_composition)
class BatchNormInside(_Reads):
    def forward(self, x: Tensor, *given: Any) -> Any:
        return super().forward(x - x.mean((0, 1), keepdim=True).detach() * (x.shape[1] > 1), *given)


@planted("gradient-reaches-every-parameter", check_composition)
class ReadCutFromTheGraph(_Reads):
    def forward(self, x: Tensor, memory: Any, attention: Any, state: State, write: Any = None) -> Any:
        read, after = memory.absorb(x, state.memory, write)
        return self.gate(read.detach(), x), state.replace(memory=after)


@planted("weights-go-through-a-state-dict", check_composition)
class WeightOutsideTheStateDict(_Reads):
    def __init__(self, *, width: int) -> None:
        super().__init__(width=width)
        self.scale = torch.randn(width)

    def forward(self, x: Tensor, *given: Any) -> Any:
        y, state = super().forward(x, *given)
        return y * self.scale.to(y.dtype), state
