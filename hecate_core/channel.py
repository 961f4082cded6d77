"""The channel half of a block: a gated MLP on every token by itself."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import nn

from hecate_core.errors import CompositionError
from hecate_core.shapes import Float, Tensor


class SwiGLU(nn.Module):
    """W_out (SiLU(W_gate x) * W_up x) with hidden width round(expansion * width), at least 1.

    Source: [2504.13173] Sec. 5.4 (channel MLP of the block).
    """

    def __init__(self, width: int, expansion: float = 8 / 3) -> None:
        super().__init__()
        if width < 1 or expansion <= 0:
            raise CompositionError(f"channel: width {width}, expansion {expansion}; expected width >= 1, expansion > 0")
        hidden = max(1, round(expansion * width))
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "B T D"], change: Mapping[str, Tensor] | None = None) -> Float[Tensor, "B T D"]:
        """The same map for every token; no state.

        `change` adds to both weights, row by row of the batch: "up" `[B, 2F, D]` and "down" `[B, D, F]`. A change of
        zeros leaves every bit as it is.
        """
        gate, value = _applied(self.up, x, change, "up").chunk(2, -1)
        return _applied(self.down, F.silu(gate) * value, change, "down")


def _applied(layer: nn.Linear, x: Tensor, change: Mapping[str, Tensor] | None, name: str) -> Tensor:
    y: Tensor = layer(x)
    return y if change is None else y + x @ change[name].to(x.dtype).mT
