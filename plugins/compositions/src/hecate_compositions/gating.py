"""The gate that lets a memory's read decide how much of attention's output goes on.

Spec: specs/compositions/mag.md, Eq. 1 and 2.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from hecate_core.api import CompositionError, Float, Tensor

Gate = Literal["norm", "sigmoid"]


class ReadGate(nn.Module):
    """seen * sigmoid(read), or SiLU(g1 RMS(seen) * g2 RMS(read)) with learned vectors g1, g2.

    Source: [2501.00663] Eq. 25, 28 and Sec. 4.2 (the normalised form of the experiments).
    """

    def __init__(self, width: int, gate: str) -> None:
        super().__init__()
        if gate not in ("norm", "sigmoid"):
            raise CompositionError(f'gate = "{gate}"; expected "norm" or "sigmoid"')
        self._gate = gate
        if gate == "norm":
            self.attention_norm = nn.RMSNorm(width, eps=1e-6)
            self.memory_norm = nn.RMSNorm(width, eps=1e-6)

    def forward(self, seen: Float[Tensor, "B T D"], read: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Attention's output, gated by the memory's read."""
        if self._gate == "sigmoid":
            return seen * torch.sigmoid(read)
        return F.silu(self.attention_norm(seen) * self.memory_norm(read))
