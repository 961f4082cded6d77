"""Elastic net: weights shrink and small ones become exactly 0.

Spec: specs/knobs/elastic-ftrl.md and elastic-proximal.md. Limit: threshold 0 is plain decay.
"""

from hecate_core.api import CompositionError, ScalarDecay, Tensor
from hecate_miras.linked import Linked
from hecate_miras.linked_linear import OpLink
from hecate_miras.links import LinkOption, soft


class ElasticFTRL(Linked):
    """A <- retain A - write g, W = soft(A): the evidence below the threshold stays in A.

    `smooth` replaces the threshold by A |arctan(A / threshold)| 2 / pi, which has a slope everywhere.
    Source: [2504.13173] Eq. 23, where retain is 1.
    """

    def __init__(self, *, threshold: float = 0.01, smooth: bool = False, decay: bool = True) -> None:
        if not threshold >= 0.0 or (smooth and threshold == 0.0):
            raise CompositionError(f"elastic-ftrl: threshold = {threshold}; expected a number >= 0 (> 0 with smooth)")
        self._threshold = threshold
        link = OpLink(LinkOption("arctan" if smooth else "soft", threshold))
        super().__init__(link, None if smooth else self._evidence, decay=decay)

    def _evidence(self, weights: Tensor) -> Tensor:
        return weights + self._threshold * weights.sign()


class ElasticProximal(ScalarDecay):
    """W <- soft(retain W - write g) at every token: what does not exceed the threshold at once is lost.

    Source: [2504.13173] Eq. 22; retain is its lambda, the threshold its gamma, both free here.
    """

    def __init__(self, *, threshold: float = 1e-3) -> None:
        if not threshold >= 0.0:
            raise CompositionError(f"elastic-proximal: threshold = {threshold}; expected a number >= 0")
        self._threshold = threshold
        self.project = self._shrink

    def _shrink(self, stored: Tensor) -> Tensor:
        return soft(stored, self._threshold)
