"""What a memory's read passes before the output projection."""

from typing import cast

import torch.nn.functional as F
from torch import nn

from hecate_core.shapes import Float, Tensor


class OutputGate(nn.Module):
    """RMSNorm(y) * SiLU(W_g x): what a memory's read passes before the output projection.

    Source: [2501.00663] Sec. 4.4.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.open = nn.Linear(width, width, bias=False)

    def forward(self, y: Float[Tensor, "B T D"], x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The read y, gated by the token x."""
        return cast(Tensor, self.norm(y) * F.silu(self.open(x)))
