"""KL retention: weights are shares of a fixed mass, stored as logits.

Spec: specs/knobs/kl.md, Eq. 1 and 2. Limit: retain = 1, write = 0 changes nothing; retain = 0, write = 0 is uniform.
"""

from hecate_core.api import CompositionError
from hecate_miras.linked import Linked
from hecate_miras.linked_linear import OpLink
from hecate_miras.links import AXES, LinkOption


class Simplex(Linked):
    """L <- retain L - write g, W = mass softmax(L): the same as W <- mass softmax(retain log W - write g).

    `over` is what one mass is spread over: every "column" (output units, the default), every "row", or "all" entries
    of the matrix (the literal form; choose `mass` near the fan-in then). Stored logits need no log of a weight; the
    start is logits. Source: [2504.13173] Eq. 19-21, 27.
    """

    domain = "simplex"

    def __init__(self, *, mass: float = 1.0, over: str = "column", decay: bool = True) -> None:
        if over not in AXES:
            raise CompositionError(f'kl: over = "{over}"; expected column, row or all')
        if not mass > 0.0:
            raise CompositionError(f"kl: mass = {mass}; expected a number > 0")
        self._mass, self._over = mass, over
        super().__init__(OpLink(LinkOption(over, mass)), decay=decay)
