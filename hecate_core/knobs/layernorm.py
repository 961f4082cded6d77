"""The cotangent of a LayerNorm's input, with its own derivative by formula (specs/knobs/mlp.md, Eq. 4 and 7).

With n = (z - mean z) r, r = 1 / sqrt(var z + eps) and <.> the mean over the last axis:
P(g) = r (g - <g> - n <g n>) is linear and symmetric in g; by z its adjoint X gives
-r (<X P(g)> n + <g n> P(X) + <X n> P(g)).
"""

from typing import Any

import torch

from hecate_core.shapes import Float, Tensor


def norm_pullback(z: Float[Tensor, "... V"], g: Float[Tensor, "... V"], eps: float) -> Float[Tensor, "... V"]:
    """The cotangent of z from the cotangent g of its normalised value."""
    if torch.is_grad_enabled() and (z.requires_grad or g.requires_grad):
        pulled: Tensor = _NormPullback.apply(z, g, eps)
        return pulled
    n, r = _unit(z, eps)
    return _project(n, r, g)[0]


def _unit(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    n, _, r = torch.native_layer_norm(z, z.shape[-1:], None, None, eps)
    return n, r


def _project(n: Tensor, r: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """P(g), and <g n>."""
    along = (g * n).mean(-1, keepdim=True)
    return (g - g.mean(-1, keepdim=True)).addcmul_(n, along, value=-1.0).mul_(r), along


class _NormPullback(torch.autograd.Function):
    """P(g) forward; its derivatives by z and g backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, g: Tensor, eps: float) -> Tensor:
        n, r = _unit(z, eps)
        pulled, along = _project(n, r, g)
        ctx.save_for_backward(n, r, pulled, along)
        return pulled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor, None]:
        n, r, pulled, along = ctx.saved_tensors
        d_g, crossing = _project(n, r, d)
        d_z = n * (d * pulled).mean(-1, keepdim=True)
        d_z = d_z.addcmul_(along, d_g).addcmul_(crossing, pulled).mul_(r).neg_()
        return d_z, d_g, None
