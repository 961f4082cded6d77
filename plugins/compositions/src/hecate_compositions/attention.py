"""Attention alone: the twin that a memory is compared with.

Spec: specs/compositions/attention.md.
"""

from torch import nn

from hecate_core.api import Attention, Bool, Float, Memory, State, Tensor


class AttentionAlone(nn.Module):
    """o = attention(x): no memory is made, so a budget of parameters can go elsewhere."""

    attends = True
    remembers = False
    recalls = False

    def __init__(self, *, width: int) -> None:
        super().__init__()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Memory,
        attention: Attention,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """The window's output; `write` has nothing to mask."""
        seen, window = attention(x, state.attention)
        return seen, state.replace(attention=window)
