"""The mixing half of a HOPE block: the memory's read, normalised; the chain of channel MLPs follows in the block.

Spec: specs/compositions/hope.md.
"""

from typing import Literal

import torch
from torch import nn

from hecate_core.api import Attention, Bool, Float, InputError, Memory, OutputGate, State, Tensor, segments


class Hope(nn.Module):
    """o = RMSNorm(M(x)) * SiLU(W_g x), read after the write of each token, or before it.

    With `read = "before"` token t is answered by the memory as it was at the start of its segment of `segment` tokens,
    on an absolute grid: segment 1 is the memory before its own write, and with the memory's chunk the source's chunked
    form. A reading front is made then. Source: [2512.24695] Eq. 82-83, 94.
    """

    attends = False
    remembers = True
    recalls = False

    def __init__(self, *, width: int, read: Literal["after", "before"] = "after", segment: int = 1) -> None:
        super().__init__()
        if read not in ("after", "before"):
            raise InputError(f'hope: read = "{read}"; expected "after" or "before" (the write of the same token)')
        if segment < 1:
            raise InputError(f"hope: segment = {segment}; expected an integer >= 1")
        self.recalls = read == "before"
        self._segment = segment
        self.late = segment if self.recalls else 0
        self.gate = OutputGate(width)
        if self.recalls:  # read after the write, a block carries nothing of its own
            self.init_state = self._begun

    def _begun(self, parts: State) -> State:
        """Beside the memory: as it was when the segment began."""
        return parts.replace(start=parts.memory)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Memory,
        attention: Attention,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Write and read every token; attention is not asked."""
        if not self.recalls:
            read, after = memory.absorb(x, state.memory, write)
            return self.gate(read, x), state.replace(memory=after)
        start, memories, reads = state.start, state.memory, []
        for begin, end, opens in segments(state.position, x.shape[1], self._segment):
            piece = x[:, begin:end]
            start = memories if opens else start
            read, start = memory.recall(piece, start)
            _, asked = memory.recall(piece, memories)  # so that the reading front's tail goes on with the memory
            _, memories = memory.absorb(piece, asked, None if write is None else write[:, begin:end])
            reads.append(read)
        read = torch.cat(reads, 1) if reads else x
        return self.gate(read, x), state.replace(memory=memories, start=start)
