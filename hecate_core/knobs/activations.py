"""Activations of MLP memories with their slope, both differentiable by formula.

`pair(name)` gives value and slope of the activation; the slope is what an inner gradient multiplies by,
and its own derivative (the second one) is what the outer gradient needs. Spec: specs/knobs/mlp.md, Eq. 4.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from hecate_core.errors import CompositionError, nearest
from hecate_core.shapes import Float, Tensor

_ROOT_HALF = math.sqrt(0.5)
_ROOT_2PI = math.sqrt(2.0 * math.pi)


class Activation(NamedTuple):
    """An activation, its first and its second derivative, each elementwise."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bend: Callable[[Tensor], Tensor]


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(z * _ROOT_HALF))


def _normal_pdf(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z * z) / _ROOT_2PI


def _gelu_slope(z: Tensor) -> Tensor:
    return torch.addcmul(_normal_cdf(z), z, _normal_pdf(z))


def _gelu_bend(z: Tensor) -> Tensor:
    return _normal_pdf(z) * (2.0 - z * z)


def _silu_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1.0 + z * (1.0 - s))


def _silu_bend(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1.0 - s) * (2.0 + z * (1.0 - 2.0 * s))


ACTIVATIONS = {
    "gelu": Activation(torch.nn.functional.gelu, _gelu_slope, _gelu_bend),
    "silu": Activation(torch.nn.functional.silu, _silu_slope, _silu_bend),
}


def activation(name: str) -> Activation:
    """The activation of that name; CompositionError names the known ones."""
    if name not in ACTIVATIONS:
        raise CompositionError(f'mlp: activation = "{name}"{nearest(name, ACTIVATIONS)}')
    return ACTIVATIONS[name]


def slope(of: Activation, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """act'(z), with act'' as its analytical derivative."""
    if torch.is_grad_enabled() and z.requires_grad:
        result: Tensor = _Slope.apply(of, z)
        return result
    return of.slope(z)


class _Slope(torch.autograd.Function):
    """First derivative forward, second derivative backward."""

    @staticmethod
    def forward(ctx: Any, of: Activation, z: Tensor) -> Tensor:
        ctx.of = of
        ctx.save_for_backward(z)
        return of.slope(z)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[None, Tensor]:
        (z,) = ctx.saved_tensors
        return None, d * ctx.of.bend(z)
