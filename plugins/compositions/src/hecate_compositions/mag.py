"""MAG: attention over a window and the memory side by side, joined by a gate.

Spec: specs/compositions/mag.md.
"""

from torch import nn

from hecate_compositions.gating import Gate, ReadGate
from hecate_core.api import Attention, Bool, Float, Memory, State, Tensor


class MemoryAsGate(nn.Module):
    """o = attention(x) * sigmoid(M(x)), or o = SiLU(g1 RMS(attention(x)) * g2 RMS(M(x))).

    `gate="norm"` is the paper's experiment, `gate="sigmoid"` halves attention while the memory is empty.
    Source: [2501.00663] Eq. 26-28.
    """

    attends = True
    remembers = True
    recalls = False

    def __init__(self, *, width: int, gate: Gate = "norm") -> None:
        super().__init__()
        self.gate = ReadGate(width, gate)

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
        return self.gate(seen, read), state.replace(memory=after, attention=window)
