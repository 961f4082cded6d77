"""Robust squared loss: the worst case over values that may be off by a given distance.

Spec: specs/knobs/robust.md, Eq. 1 and 2. Limit: radius 0 is the squared loss.
"""

from collections.abc import Mapping

from hecate_core.api import CompositionError, Float, Gate, Tensor, Tokens


class RobustL2:
    """max over |dv| <= radius of 1/2 |e + dv|^2, with cotangent e + radius e / |e|. Source: [2504.13173] Eq. 17.

    The length is sqrt(|e|^2 + eps^2), so a perfect recall has cotangent 0.
    """

    gates: Mapping[str, Gate] = {}
    affine: tuple[float, float] | None = None

    def __init__(self, *, radius: float = 0.1, eps: float = 1e-3) -> None:
        if not (radius >= 0.0 and eps > 0.0):
            raise CompositionError(f"robust: radius = {radius}, eps = {eps}; expected radius >= 0 and eps > 0")
        self._radius, self._eps = radius, eps

    def cotangent(self, prediction: Tensor, v: Tensor, tokens: Tokens) -> Float[Tensor, "B H T V"]:
        """The error, lengthened by up to the radius."""
        e = prediction - v
        return e * (1.0 + self._radius * ((e * e).sum(-1, keepdim=True) + self._eps**2).rsqrt())
