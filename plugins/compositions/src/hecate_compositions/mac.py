"""MAC: what the memory recalls stands beside the segment's own tokens as context for attention.

Spec: specs/compositions/mac.md.
"""

import torch
from torch import nn

from hecate_compositions.gating import Gate, ReadGate
from hecate_core.api import Attention, Bool, Float, Memory, State, Tensor, segments


class MemoryAsContext(nn.Module):
    """y = attention over [persistent, h_j, x_j for j <= i of the segment], o = y gated by M(y), written by y.

    h is recalled from the memory as it was when the segment began. A segment is as long as the attention's `window`,
    on an absolute grid; segments see each other through the memory alone. The causal reading of [2501.00663] Eq. 21-25:
    token i attends to recalls and tokens up to i, and every o reads a memory that was written up to its own token.
    """

    attends = True
    remembers = True
    recalls = True
    rows = 2  # attention sees a recall and a token for every token

    def __init__(self, *, width: int, window: int = 64, gate: Gate = "norm") -> None:
        super().__init__()
        self._segment = window
        self.gate = ReadGate(width, gate)

    def init_state(self, parts: State) -> State:
        """Beside memory and attention: the memory as it was when the segment began."""
        return parts.replace(start=parts.memory)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Memory,
        attention: Attention,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Segment by segment: recall, attend, write and read."""
        outputs = []
        for start, stop, opens in segments(state.position, x.shape[1], self._segment):
            if opens:
                state = state.replace(start=state.memory)
            piece = x[:, start:stop]
            recalled, began = memory.recall(piece, state.start)
            rows = torch.stack((recalled, piece), 2).flatten(1, 2)  # h_1 x_1 h_2 x_2 ...: causal order is enough
            seen, window = attention(rows, None if opens else state.attention)
            seen = seen[:, 1::2]
            read, after = memory.absorb(seen, state.memory, None if write is None else write[:, start:stop])
            outputs.append(self.gate(seen, read))
            state = state.replace(memory=after, attention=window, start=began)
        return (torch.cat(outputs, 1) if outputs else x), state
