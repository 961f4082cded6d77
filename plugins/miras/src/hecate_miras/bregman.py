"""Bregman retention: gradient descent in the coordinates of a potential, where weights cannot leave its domain.

Spec: specs/knobs/bregman.md, Eq. 1 and 2. Limit: potential "square" is plain decay.
"""

import torch

from hecate_core.api import CompositionError, Tensor
from hecate_miras.linked import Linked
from hecate_miras.linked_linear import OpLink
from hecate_miras.links import LinkOption

# potential: (where its weights live, whether every real start has coordinates, the kind of its link)
POTENTIALS = {
    "square": ("real", True, ""),
    "entropy": ("positive", False, "exponential"),
    "logistic": ("unit interval", False, "logistic"),
    "hypentropy": ("real", True, "sinh"),
}


class Bregman(Linked):
    """A <- retain A - write g, W = (F')^-1(A) for a potential F: W <- (F')^-1(retain F'(W) - write g).

    "square" F' = W; "entropy" F' = log W, weights > 0; "logistic" F' = logit W, weights in (0, 1); "hypentropy"
    F' = arsinh(W / scale), which is linear below `scale` and logarithmic above. There is no factor from a chain rule:
    the step is taken in A. Where not every real number is a weight, the start is A. Source: [2504.13173] Sec. 3.3.
    """

    def __init__(self, *, potential: str = "hypentropy", scale: float = 0.1, decay: bool = True) -> None:
        if potential not in POTENTIALS:
            raise CompositionError(f'bregman: potential = "{potential}"; expected {", ".join(POTENTIALS)}')
        if not scale > 0.0:
            raise CompositionError(f"bregman: scale = {scale}; expected a number > 0")
        self._scale = scale
        self.domain, invertible, kind = POTENTIALS[potential]
        super().__init__(OpLink(LinkOption(kind, scale)), self._coordinates if invertible else None, decay=decay)
        if potential == "square":
            self.link = self.inverse = None

    def _coordinates(self, weights: Tensor) -> Tensor:
        return torch.asinh(weights / self._scale)


def bounded(*, decay: bool = True) -> Bregman:
    """Weights in (0, 1): W <- sigmoid(retain logit W - write g). Spec: specs/knobs/sigmoid.md."""
    return Bregman(potential="logistic", decay=decay)
