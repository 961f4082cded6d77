"""MAC as printed, which is not causal: for studying the paper, not for predicting the next token.

Spec: specs/compositions/mac-printed.md.
"""

from collections.abc import Mapping

import torch
from torch import nn

from hecate_compositions.gating import Gate, ReadGate
from hecate_core.api import Attention, Bool, Float, InputError, Memory, State, Tensor, segments

# What the conformance kit must find, and why it is meant.
NOT_CAUSAL = "the printed equations let every token see its whole segment"
WHOLE = "a call must begin at a segment's border, since its tokens see the whole segment"


class MemoryAsContextPrinted(nn.Module):
    """Every token attends to the recalls of its whole segment, and o reads the memory after the whole segment.

    Token i therefore sees tokens after i. Needs whole segments: a call must begin at a segment's border.
    Source: [2501.00663] Eq. 21-25, read literally.
    """

    attends = True
    remembers = True
    recalls = True
    causal = False
    rows = 2
    expected_failures: Mapping[str, str] = {
        "is-causal": NOT_CAUSAL,
        "splits-change-nothing": WHOLE,
        "a-write-mask-reaches-the-memory": WHOLE,
        "no-token-and-one-token": WHOLE,
        "changes-nothing-in-place": WHOLE,
    }

    def __init__(self, *, width: int, window: int = 64, gate: Gate = "norm") -> None:
        super().__init__()
        self._segment = window
        self.gate = ReadGate(width, gate)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Memory,
        attention: Attention,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Whole segments at once; the last one of a call may be shorter, but no call can go on inside it."""
        if state.position % self._segment and x.shape[1]:
            raise InputError(
                f"mac-printed: a call begins at position {state.position}, inside a segment of {self._segment}; "
                'its tokens see the whole segment, so begin at a border or use composition "mac"'
            )
        outputs = []
        for start, stop, _ in segments(state.position, x.shape[1], self._segment):
            piece = x[:, start:stop]
            recalled, _ = memory.recall(piece, state.memory)
            seen, window = attention(torch.cat((recalled, piece), 1), None)
            seen = seen[:, stop - start :]
            _, after = memory.absorb(seen, state.memory, None if write is None else write[:, start:stop])
            read, _ = memory.recall(seen, after)
            outputs.append(self.gate(seen, read))
            state = state.replace(memory=after, attention=window)
        return (torch.cat(outputs, 1) if outputs else x), state
