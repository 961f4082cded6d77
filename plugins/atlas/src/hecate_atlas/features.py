"""Feature maps for keys and queries: what a matrix memory sees instead of the key (specs/rules/omega.md, Eq. 6)."""

from collections.abc import Callable, Mapping

import torch

from hecate_core.api import Float, Param, Params, Tensor, scaled

LEARNED = ("constant", "linear", "quadratic")
FEATURES = ("poly2", "identity")
PARAMS: Mapping[str, Param] = {name: Param("H", "ones") for name in LEARNED}
"""One weight per degree and head; the used coefficient is its square over the factorial of the degree."""


def width_of(features: str) -> Callable[[Mapping[str, int]], int]:
    """The number of features P that a key of width K gets."""
    if features == "identity":
        return lambda widths: widths["K"]
    return lambda widths: 1 + widths["K"] + widths["K"] * (widths["K"] + 1) // 2


def poly2(params: Params, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T P"]:
    """phi with phi(x).phi(y) = (c0 + c1 x.y + c2 (x.y)^2) / (c0 + c1 + c2): a unit key has unit features.

    Pairs i < j carry sqrt(2), which makes the kernel the square of the dot product. Source: [2505.23735] Eq. 56.
    """
    weights = torch.stack([params[name] for name in LEARNED], -1)  # H 3
    roots = weights * weights.new_tensor([1.0, 1.0, 0.5]).sqrt()
    roots = roots / roots.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    constant, linear, quadratic = (root.unsqueeze(0) for root in roots.unbind(-1))  # each 1 H
    row, column = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
    twice = (1.0 + (row != column).to(x.dtype)).sqrt()
    pairs = x[..., row] * x[..., column] * twice
    ones = torch.ones_like(x[..., :1])
    return torch.cat((scaled(constant, ones), scaled(linear, x), scaled(quadratic, pairs)), -1)
