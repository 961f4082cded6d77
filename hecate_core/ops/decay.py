"""Products of decays between any two tokens of a chunk, and their adjoint.

`between(a)[t, i] = a_{i+1} * ... * a_t` for 0 <= i <= t <= C, index 0 being the start of the chunk, so
column 0 holds what is left of the memory that the chunk began with. Spec: specs/forms/affine.md, Eq. 2.
"""

import math
from typing import Any

import torch

from hecate_core.ops.first_order import first_order
from hecate_core.shapes import Float, Tensor

# log 0, as far as an exponential can tell; small enough that float64 sums keep 11 digits.
_LOG_ZERO = -1000.0
# Products below are set to 0: denormals make CPU matmuls several times slower and carry no digits.
# The exponential is never asked for one: arguments that make denormals or zeros cost it ten times as much.
_LOG_NEGLIGIBLE = {torch.float32: -50.0, torch.float64: -300.0}
_ROUNDING = 1.001  # of the exponential at the bound itself


def between(decay: Float[Tensor, "... C"]) -> Float[Tensor, "... C+1 C+1"]:
    """All products of consecutive decays in [0, inf), lower triangular with ones on the diagonal.

    Sums of logarithms are taken in float64, so a decay of exactly 0 and long products keep the digits
    of the result's own dtype (float32 or float64).
    """
    logs = decay.double().log().clamp(min=_LOG_ZERO)
    sums = torch.nn.functional.pad(logs.cumsum(-1), (1, 0))
    least = _LOG_NEGLIGIBLE[decay.dtype]
    exponent = (sums.unsqueeze(-1) - sums.unsqueeze(-2)).to(decay.dtype).clamp_(min=least).tril_()
    return torch.threshold_(exponent.exp_(), _ROUNDING * math.exp(least), 0.0).tril_()


def between_adjoint(
    products: Float[Tensor, "... C+1 C+1"], adjoint: Float[Tensor, "... C+1 C+1"]
) -> Float[Tensor, "... C"]:
    """The gradient of a loss by the decays, from its gradient by `between(decay)`.

    Free of divisions, so it is right where a decay is exactly 0:
    da_l = sum over i < l <= t of products[t, l] * adjoint[t, i] * products[l - 1, i],
    in which no entry of `adjoint` above the diagonal takes part.
    """
    after = products[..., 1:, 1:].mT @ adjoint[..., 1:, :-1]
    return (after * products[..., :-1, :-1]).sum(-1)


def products(decay: Float[Tensor, "... C"], *, signed: bool = False) -> Float[Tensor, "... C+1 C+1"]:
    """`between(decay)` as a differentiable function, right at 0; `signed` takes decays below 0 too."""
    if torch.is_grad_enabled() and decay.requires_grad:
        result: Tensor = _Products.apply(decay, signed)
        return result
    return _signed(decay) if signed else between(decay)


class _Products(torch.autograd.Function):
    """The products forward, their division-free adjoint backward."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, signed: bool) -> Tensor:
        found = _signed(decay) if signed else between(decay)
        ctx.save_for_backward(found)
        return found

    @staticmethod
    @first_order
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Tensor, None]:
        (found,) = ctx.saved_tensors
        return between_adjoint(found, adjoint), None


def _signed(decay: Tensor) -> Tensor:
    """Magnitudes from logarithms, signs from the parity of negative factors between two tokens."""
    flips = torch.where(decay < 0, -1.0, 1.0).to(decay.dtype).cumprod(-1)
    flips = torch.nn.functional.pad(flips, (1, 0), value=1.0)
    return between(decay.abs()) * flips.unsqueeze(-1) * flips.unsqueeze(-2)
