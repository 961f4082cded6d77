"""The gate head of a level: one projection that makes every gate its rule declares, bounded."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from hecate_core.differentiation import autodiff
from hecate_core.gates import Gate
from hecate_core.precision import full_precision
from hecate_core.protocols import Widths
from hecate_core.records import Tokens
from hecate_core.shapes import Float, Tensor


class GateHead(nn.Module):
    """Used gates `[B, H, T]` (or `[B, H, T, width]`) from activations `[B, T, D]`.

    Computed in float32 or wider whatever the model's dtype: a decay of 0.98 has no digits to lose.
    """

    def __init__(self, width: int, gates: Mapping[str, Gate], widths: Widths) -> None:
        super().__init__()
        self._gates = dict(gates)
        self._heads = widths["H"]
        self._sizes = {
            name: widths["H"] * (1 if gate.width is None else widths[gate.width]) for name, gate in gates.items()
        }
        total = sum(self._sizes.values())
        # A rule without gates has no head: an empty parameter would never be reached by a gradient.
        self.weight = nn.Parameter(torch.empty(total, width)) if total else None
        self.bias = nn.Parameter(torch.empty(total)) if total else None
        self.reset_parameters()

    @property
    def declared(self) -> Mapping[str, Gate]:
        """Every gate with the range that its used value keeps."""
        return self._gates

    def reset_parameters(self) -> None:
        """Biases at every gate's declared start, weights as nn.Linear draws them."""
        if self.weight is None or self.bias is None:
            return
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        start = [torch.full((size,), self._gates[name].raw_init()) for name, size in self._sizes.items()]
        with torch.no_grad():
            self.bias.copy_(torch.cat(start))

    @autodiff
    def forward(self, x: Float[Tensor, "B T D"]) -> Tokens:
        """Every gate as used, inside its declared range for any finite x; NaN stays NaN."""
        if self.weight is None or self.bias is None:
            return Tokens()
        wide = torch.promote_types(torch.promote_types(x.dtype, self.weight.dtype), torch.float32)
        with full_precision(x.device):
            raw = F.linear(x.to(wide), self.weight.to(wide), self.bias.to(wide))
        made = {}
        for name, part in zip(self._sizes, raw.split(list(self._sizes.values()), -1), strict=True):
            gate = self._gates[name]
            used = gate.used(part).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            made[name] = used.squeeze(-1) if gate.width is None else used
        return Tokens.of(made)
