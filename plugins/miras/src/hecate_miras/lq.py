"""L_q retention: weights are the evidence, sharpened or flattened by a norm of the whole matrix.

Spec: specs/knobs/lq.md, Eq. 1 to 3. Limit: q = 2 is plain decay, whichever link.
"""

from hecate_core.api import CompositionError
from hecate_miras.linked import Linked, Map
from hecate_miras.linked_linear import OpLink
from hecate_miras.links import LinkOption, powered, printed_inverse

LINKS = ("printed", "dual", "exact")


class Lq(Linked):
    """A <- retain A - write g, W = link(A), the norm over each whole weight.

    "printed": A / |A|_q^(q-2), of degree 3 - q (Eq. 24 as it stands); "dual": sign(A) |A|^(q-1) / |A|_q^(q-2), of
    degree 1, what the printed formula is derived from with q the dual exponent; "exact": the same with q / (q - 1),
    its inverse, for q as the exponent of the regulariser. No norm is taken as smaller than `floor`: the printed link
    grows as 1 / A where A vanishes. Source: [2504.13173] Eq. 24-25, Sec. 5.2.
    """

    def __init__(self, *, q: float = 4.0, link: str = "printed", floor: float = 1e-6, decay: bool = True) -> None:
        if not q > 1.0:
            raise CompositionError(f"lq: q = {q}; expected a number > 1")
        if not floor > 0.0:
            raise CompositionError(f"lq: floor = {floor}; expected a number > 0")
        if link not in LINKS:
            raise CompositionError(f'lq: link = "{link}"; expected {", ".join(LINKS)}')
        if link == "printed" and q == 3.0:
            raise CompositionError(
                "lq: the printed link at q = 3 forgets the size of A; use another q, or dual or exact"
            )
        dual = q / (q - 1.0)
        maps: dict[str, tuple[LinkOption, Map]] = {
            "printed": (LinkOption("printed", floor, q), lambda w: printed_inverse(w, q, floor)),
            "dual": (LinkOption("powered", floor, q), lambda w: powered(w, dual, floor)),
            "exact": (LinkOption("powered", floor, dual), lambda w: powered(w, q, floor)),
        }
        option, inverse = maps[link]
        super().__init__(OpLink(option), inverse, decay=decay)
        if q == 2.0:
            self.link = self.inverse = None
