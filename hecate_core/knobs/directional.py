"""The directional retention: a memory forgets along the present input, and more slowly everywhere.

Spec: specs/knobs/directional.md.
"""

from collections.abc import Mapping

from hecate_core.gates import RETAIN, WRITE, Gate
from hecate_core.knobs.retentions import NoDecay
from hecate_core.records import Tokens
from hecate_core.shapes import Float, Tensor


class Directional(NoDecay):
    """W -> W (retain I - e x x^T), x the input of the weight; e is the gate `erase` where |x| = 1.

    Without `decay` retain is 1 and the gate is left out. Source: [2512.24695] Eq. 57 and 88, there a part of the step.
    """

    def __init__(self, *, decay: bool = True) -> None:
        self.decays = decay
        self.gates: Mapping[str, Gate] = {**({"retain": RETAIN} if decay else {}), "erase": WRITE}

    def keep(self, tokens: Tokens) -> Float[Tensor, "B H T"]:
        """The gate `retain`, or ones."""
        retain: Tensor = tokens.retain if self.decays else super().keep(tokens)
        return retain

    def erase(self, tokens: Tokens) -> Float[Tensor, "B H T"]:
        """The gate: the share of what lies along a unit input that is taken out."""
        erase: Tensor = tokens.erase
        return erase
