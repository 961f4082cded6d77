"""MAL: the memory as a layer below attention.

Spec: specs/compositions/mal.md.
"""

from torch import nn

from hecate_core.api import Attention, Bool, Float, Memory, State, Tensor


class MemoryAsLayer(nn.Module):
    """o = attention(M(x) + x); without `residual` o = attention(M(x)).

    An empty memory reads 0 and would leave attention nothing to see, hence the residual.
    Source: [2501.00663] Eq. 29-31.
    """

    attends = True
    remembers = True
    recalls = False

    def __init__(self, *, width: int, residual: bool = True) -> None:
        super().__init__()
        self._residual = residual

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Memory,
        attention: Attention,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Write and read every token, then attend over what was read."""
        read, after = memory.absorb(x, state.memory, write)
        seen, window = attention(read + x if self._residual else read, state.attention)
        return seen, state.replace(memory=after, attention=window)
