"""Attentional biases of core: the inner losses whose gradient is affine in the memory."""

from collections.abc import Mapping

from hecate_core.gates import Gate
from hecate_core.records import Tokens
from hecate_core.shapes import Float, Tensor


class Dot:
    """-<M(k), v>: write the value, whatever the memory predicts. Source: [2504.13173] Sec. 3.1."""

    bounded = False
    gates: Mapping[str, Gate] = {}
    affine: tuple[float, float] | None = (0.0, 1.0)

    def cotangent(self, prediction: Tensor, v: Tensor, tokens: Tokens) -> Float[Tensor, "B H T V"]:
        """-v."""
        return -v


class L2:
    """1/2 |M(k) - v|^2: write the error of the prediction. Source: [2504.13173] Eq. 9; [2501.00663] Eq. 12."""

    gates: Mapping[str, Gate] = {}
    affine: tuple[float, float] | None = (1.0, 1.0)

    def cotangent(self, prediction: Tensor, v: Tensor, tokens: Tokens) -> Float[Tensor, "B H T V"]:
        """M(k) - v."""
        return prediction - v
