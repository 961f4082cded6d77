"""Activations of MLP memories with their slope, both differentiable by formula.

The slope act'(z) is what an inner gradient multiplies by, its own derivative act'' is what the outer gradient
needs. Value, slope and bend share their transcendental parts. Spec: specs/knobs/mlp.md, section Gradient.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from hecate_core.errors import CompositionError, nearest
from hecate_core.shapes import Float, Tensor

_ROOT_HALF = math.sqrt(0.5)
_ROOT_2PI = math.sqrt(2.0 * math.pi)

Both = tuple[Tensor, Tensor, tuple[Tensor, ...]]


class Activation(NamedTuple):
    """An activation: its value, value and slope together (with what `bend` wants), its second derivative."""

    value: Callable[[Tensor], Tensor]
    both: Callable[[Tensor], Both]
    bend: Callable[..., Tensor]


def _gelu(z: Tensor) -> Both:
    """z Phi(z) and Phi + z phi."""
    cdf = torch.erf(z * _ROOT_HALF).add_(1.0).mul_(0.5)
    pdf = (z * z).mul_(-0.5).exp_().div_(_ROOT_2PI)
    return z * cdf, cdf.addcmul_(z, pdf), (z, pdf)


def _gelu_bend(z: Tensor, pdf: Tensor) -> Tensor:
    """phi (2 - z^2)."""
    return pdf * (2.0 - z * z)


def _silu(z: Tensor) -> Both:
    """z s(z) and s + (1 - s) z s."""
    s = torch.sigmoid(z)
    value = z * s
    return value, s + (1.0 - s) * value, (z, s)


def _silu_bend(z: Tensor, s: Tensor) -> Tensor:
    """s (1 - s)(2 + z (1 - 2 s))."""
    return s * (1.0 - s) * (2.0 + z * (1.0 - 2.0 * s))


ACTIVATIONS = {
    "gelu": Activation(torch.nn.functional.gelu, _gelu, _gelu_bend),
    "silu": Activation(torch.nn.functional.silu, _silu, _silu_bend),
}


def activation(name: str) -> Activation:
    """The activation of that name; CompositionError names the known ones."""
    if name not in ACTIVATIONS:
        raise CompositionError(f'mlp: activation = "{name}"{nearest(name, ACTIVATIONS)}')
    return ACTIVATIONS[name]


def with_slope(of: Activation, z: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """act(z) and act'(z), with act'' as the analytical derivative of the latter."""
    if torch.is_grad_enabled() and z.requires_grad:
        value, slope = _WithSlope.apply(of, z)
        return value, slope
    return of.both(z)[:2]


class _WithSlope(torch.autograd.Function):
    """Value and slope forward; slope and bend backward."""

    @staticmethod
    def forward(ctx: Any, of: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
        value, slope, parts = of.both(z)
        ctx.of = of
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(slope, *parts)
        return value, slope

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_value: Tensor | None, d_slope: Tensor | None) -> tuple[None, Tensor | None]:
        slope, *parts = ctx.saved_tensors
        if d_slope is None:
            return None, None if d_value is None else d_value * slope
        d = d_slope * ctx.of.bend(*parts)
        return None, d if d_value is None else d.addcmul_(d_value, slope)
