"""Smooth l1 loss: every error pulls with the same force, however large; the memory stores signs.

Spec: specs/knobs/l1.md, Eq. 1. Limit: sharpness to infinity is sign(e), to 0 it is sharpness times the error.
"""

from collections.abc import Mapping

import torch

from hecate_core.api import CompositionError, Float, Gate, Tensor, Tokens


class SmoothL1:
    """log cosh(s e) / s with cotangent tanh(s e). Source: [2504.13173] Eq. 12, remark 5."""

    gates: Mapping[str, Gate] = {}
    affine: tuple[float, float] | None = None

    def __init__(self, *, sharpness: float = 10.0) -> None:
        if not sharpness > 0.0:
            raise CompositionError(f"l1: sharpness = {sharpness}; expected a number > 0")
        self._sharpness = sharpness

    def cotangent(self, prediction: Tensor, v: Tensor, tokens: Tokens) -> Float[Tensor, "B H T V"]:
        """tanh(s (M(k) - v))."""
        return torch.tanh(self._sharpness * (prediction - v))
