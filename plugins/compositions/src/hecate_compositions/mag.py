"""MAG: attention over a window and the memory side by side, joined by a gate.

Spec: specs/compositions/mag.md.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from hecate_core.api import Attention, Bool, Float, Memory, State, Tensor


class MemoryAsGate(nn.Module):
    """o = attention(x) * sigmoid(M(x)), or o = SiLU(g1 RMS(attention(x)) * g2 RMS(M(x))).

    `gate="norm"` is the paper's experiment, `gate="sigmoid"` halves attention while the memory is empty.
    Source: [2501.00663] Eq. 26-28.
    """

    attends = True
    remembers = True
    recalls = False

    def __init__(self, *, width: int, gate: Literal["sigmoid", "norm"] = "norm") -> None:
        super().__init__()
        self._gate = gate
        if gate == "norm":
            self.attention_norm = nn.RMSNorm(width, eps=1e-6)
            self.memory_norm = nn.RMSNorm(width, eps=1e-6)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Memory,
        attention: Attention,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Both branches see the same x; neither sees the other's output."""
        seen, window = attention(x, state.attention)
        read, after = memory.absorb(x, state.memory, write)
        state = state.replace(memory=after, attention=window)
        if self._gate == "sigmoid":
            return seen * torch.sigmoid(read), state
        return F.silu(self.attention_norm(seen) * self.memory_norm(read)), state
