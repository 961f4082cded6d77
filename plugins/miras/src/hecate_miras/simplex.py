"""KL retention: weights are shares of a fixed mass, stored as logits.

Spec: specs/knobs/kl.md, Eq. 1 and 2. Limit: retain = 1, write = 0 changes nothing; retain = 0, write = 0 is uniform.
"""

import torch

from hecate_core.api import CompositionError, Float, Tensor
from hecate_miras.linked import Linked

AXES = {"column": -2, "row": -1}


class Simplex(Linked):
    """L <- retain L - write g, W = mass softmax(L): the same as W <- mass softmax(retain log W - write g).

    `over` is what one mass is spread over: every "column" (output units, the default), every "row", or "all" entries
    of the matrix (the literal form; choose `mass` near the fan-in then). Stored logits need no log of a weight; the
    start is logits. Source: [2504.13173] Eq. 19-21, 27.
    """

    domain = "simplex"

    def __init__(self, *, mass: float = 1.0, over: str = "column", decay: bool = True) -> None:
        if over not in (*AXES, "all"):
            raise CompositionError(f'kl: over = "{over}"; expected column, row or all')
        if not mass > 0.0:
            raise CompositionError(f"kl: mass = {mass}; expected a number > 0")
        self._mass, self._over = mass, over
        super().__init__(self._shares, decay=decay)

    def _shares(self, stored: Float[Tensor, "... V K"]) -> Float[Tensor, "... V K"]:
        if self._over == "all":
            return self._mass * torch.softmax(stored.flatten(-2), -1).view(stored.shape)
        return self._mass * torch.softmax(stored, AXES[self._over])
