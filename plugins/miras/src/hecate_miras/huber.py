"""Huber losses: quadratic for small errors, linear beyond a threshold that every token sets for itself.

Spec: specs/knobs/huber.md, Eq. 1 to 3. Limit: a threshold above every error is the squared loss.
"""

import math
from collections.abc import Mapping

import torch

from hecate_core.api import CompositionError, Float, Gate, Tensor, Tokens

FORMS = ("switch", "coordinate", "norm")


class Huber:
    """The error where it is small, a bounded pull where it is large; `form` says what small means.

    "switch": |e| <= threshold, else threshold * tanh(s e), discontinuous there ([2504.13173] Eq. 16, 26);
    "coordinate": every entry clamped to +-threshold (Eq. 14); "norm": the error shortened to length threshold, which
    no rotation of the values changes (Eq. 15). The threshold is a gate, one per token and head; `unit` says of what:
    the "norm" of the error, or its "rms", which does not grow with the width of values ("switch" and "norm").
    """

    affine: tuple[float, float] | None = None

    def __init__(self, *, form: str = "switch", sharpness: float = 10.0, unit: str = "norm") -> None:
        if form not in FORMS:
            raise CompositionError(f'huber: form = "{form}"; expected {", ".join(FORMS)}')
        if unit not in ("norm", "rms") or (unit == "rms" and form == "coordinate"):
            raise CompositionError(f'huber: unit = "{unit}"; expected "norm", or "rms" with a form that takes a length')
        self._form, self._sharpness, self._unit = form, sharpness, unit
        self.gates: Mapping[str, Gate] = {"threshold": Gate(1e-3, 10.0, init=1.0, domain=(0.0, math.inf))}

    def cotangent(self, prediction: Tensor, v: Tensor, tokens: Tokens) -> Float[Tensor, "B H T V"]:
        """Of length at most threshold in "norm", of entries at most threshold in the others (beyond the switch)."""
        e, threshold = prediction - v, tokens.threshold.unsqueeze(-1)
        if self._unit == "rms":
            threshold = threshold * e.shape[-1] ** 0.5
        if self._form == "coordinate":
            return e.clamp(-threshold, threshold)  # NaN stays NaN
        square = (e * e).sum(-1, keepdim=True)
        small = square <= threshold * threshold
        if self._form == "switch":
            return torch.where(small, e, threshold * torch.tanh(self._sharpness * e))
        length = torch.where(small, 1.0, square).sqrt()  # never the root of 0, whose slope is infinite
        return torch.where(small, e, e * (threshold / length))
