"""l_p loss: large errors count more (p > 2) or less (p < 2) than in the squared loss.

Spec: specs/knobs/lp.md, Eq. 1 and 2. Limit: p = 2, exact, is the squared loss at twice the rate.
"""

from collections.abc import Mapping

import torch

from hecate_core.api import CompositionError, Float, Gate, Tensor, Tokens


class Lp:
    """sum |e|^p with cotangent p sign(e) |e|^(p-1), or its smooth form p tanh(s e) (e^2 + eps)^((p-1)/2).

    `smooth` is no exact gradient of a loss, but differentiable everywhere. The exact form has slope 0 at e = 0 where
    the true one is infinite (1 < p < 2). Source: [2504.13173] Eq. 10-11 and remark 5.
    """

    gates: Mapping[str, Gate] = {}

    def __init__(self, *, p: float = 3.0, smooth: bool = True, sharpness: float = 10.0, eps: float = 1e-6) -> None:
        if not p >= 1.0:
            raise CompositionError(f"lp: p = {p}; expected a number >= 1")
        if not (sharpness > 0.0 and eps > 0.0):
            raise CompositionError(f"lp: sharpness = {sharpness}, eps = {eps}; expected numbers > 0")
        self._p, self._smooth, self._sharpness, self._eps = p, smooth, sharpness, eps
        self.affine: tuple[float, float] | None = (2.0, 2.0) if p == 2.0 and not smooth else None

    def cotangent(self, prediction: Tensor, v: Tensor, tokens: Tokens) -> Float[Tensor, "B H T V"]:
        """Elementwise in e = M(k) - v."""
        e, p = prediction - v, self._p
        if self._smooth:
            return p * torch.tanh(self._sharpness * e) * (e * e + self._eps).pow(0.5 * (p - 1.0))
        if p == 2.0:
            return 2.0 * e
        safe = torch.where(e == 0.0, 1.0, e)  # keeps 0^(p-2) out of the derivative
        return torch.where(e == 0.0, 0.0, p * safe.sign() * safe.abs().pow(p - 1.0))
