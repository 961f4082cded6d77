"""LMM: the memory alone, its read normalised and gated by the token.

Spec: specs/compositions/lmm.md.
"""

from torch import nn

from hecate_core.api import Attention, Bool, Float, Memory, OutputGate, State, Tensor


class MemoryAlone(nn.Module):
    """o = RMSNorm(M(x)) * SiLU(W_g x). Source: [2501.00663] Sec. 4.3 (LMM), Sec. 4.4 (output gate)."""

    attends = False
    remembers = True
    recalls = False

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.gate = OutputGate(width)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Memory,
        attention: Attention,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Write and read every token; attention is not asked."""
        read, after = memory.absorb(x, state.memory, write)
        return self.gate(read, x), state.replace(memory=after)
