"""L_q retention: weights are the evidence, sharpened or flattened by a norm of the whole matrix.

Spec: specs/knobs/lq.md, Eq. 1 to 3. Limit: q = 2 is plain decay, whichever link.
"""

import torch

from hecate_core.api import CompositionError, Float, Tensor
from hecate_miras.linked import Linked, Map

LINKS = ("printed", "dual", "exact")


class Lq(Linked):
    """A <- retain A - write g, W = link(A), the norm over each whole weight.

    "printed": A / |A|_q^(q-2), of degree 3 - q (Eq. 24 as it stands); "dual": sign(A) |A|^(q-1) / |A|_q^(q-2), of
    degree 1, what the printed formula is derived from with q the dual exponent; "exact": the same with q / (q - 1),
    its inverse, for q as the exponent of the regulariser. No norm is taken as smaller than `floor`: the printed link
    grows as 1 / A where A vanishes. Source: [2504.13173] Eq. 24-25, Sec. 5.2.
    """

    def __init__(self, *, q: float = 4.0, link: str = "printed", floor: float = 1e-12, decay: bool = True) -> None:
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
        maps: dict[str, tuple[Map, Map]] = {
            "printed": (lambda a: printed(a, q, floor), lambda w: printed_inverse(w, q, floor)),
            "dual": (lambda a: powered(a, q, floor), lambda w: powered(w, dual, floor)),
            "exact": (lambda a: powered(a, dual, floor), lambda w: powered(w, q, floor)),
        }
        super().__init__(*maps[link], decay=decay)
        if q == 2.0:
            self.link = self.inverse = None


def norm(matrix: Float[Tensor, "... V K"], q: float, floor: float = 1e-12) -> Float[Tensor, "... 1 1"]:
    """|A|_q over the last two axes, at least `floor`; scaled by the largest entry, so powers do not overflow."""
    size = matrix.abs()
    largest = size.amax((-2, -1), keepdim=True).clamp(min=floor)
    shares = (size / largest).pow(q).sum((-2, -1), keepdim=True).clamp(min=1.0)  # below 1 only where A is nothing
    total: Tensor = largest * shares.pow(1.0 / q)
    return total


def printed(a: Float[Tensor, "... V K"], q: float, floor: float = 1e-12) -> Float[Tensor, "... V K"]:
    """A / |A|_q^(q-2)."""
    return a * norm(a, q, floor).pow(2.0 - q)


def printed_inverse(w: Float[Tensor, "... V K"], q: float, floor: float = 1e-12) -> Float[Tensor, "... V K"]:
    """W |W|_q^((q-2)/(3-q)), because |W| = |A|^(3-q)."""
    return w * norm(w, q, floor).pow((q - 2.0) / (3.0 - q))


def powered(a: Float[Tensor, "... V K"], q: float, floor: float = 1e-12) -> Float[Tensor, "... V K"]:
    """sign(A) |A|^(q-1) / |A|_q^(q-2); entries that are 0 stay 0 and pass no gradient."""
    safe = torch.where(a == 0.0, 1.0, a)
    size = norm(a, q, floor)
    return torch.where(a == 0.0, 0.0, safe.sign() * (safe.abs() / size).pow(q - 1.0) * size)
