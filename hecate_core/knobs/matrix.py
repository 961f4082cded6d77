"""The matrix structure: one linear map, the memory of the delta rule and of linear Titans."""

from collections.abc import Mapping

from hecate_core.protocols import Param, Trace
from hecate_core.records import Params
from hecate_core.shapes import Float, Tensor
from hecate_core.weights import Weights


class Matrix:
    """M(x) = M x with one weight `matrix`, `[B, H, V, K]`; `learn_start` makes the first memory a parameter.

    Source: [2501.00663] Sec. 3.1 (linear memory).
    """

    linear = True
    layers: Mapping[str, tuple[str, str]] = {"matrix": ("V", "K")}

    def __init__(self, *, learn_start: bool = False) -> None:
        self.params: Mapping[str, Param] = {"matrix": Param("H V K", "zeros", learned=learn_start)}

    def trace(self, params: Params, weights: Weights, x: Float[Tensor, "B H T K"]) -> tuple[Tensor, Trace]:
        """M x, and the same as the output of the only weight."""
        prediction = weights.apply("matrix", x)
        return prediction, {"matrix": (x, prediction)}

    def pullback(self, params: Params, weights: Weights, trace: Trace, d: Tensor) -> Mapping[str, Tensor]:
        """The prediction is the weight's output, so its cotangent is d itself."""
        return {"matrix": d}
