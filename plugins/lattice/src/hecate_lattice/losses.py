"""The three inner losses of Lattice, as what a slot takes: a code c per slot and one direction w.

Minus the gradient of a loss by slot i, before the projection onto the slot's tangent space, is c_i w
(specs/rules/lattice.md, Eq. 1 to 3). Slots are unit columns.
"""

from collections.abc import Callable, Mapping

from hecate_core.api import Float, Tensor

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def decode(
    slots: Float[Tensor, "B H V M"], k: Float[Tensor, "B H T M"], v: Float[Tensor, "B H T V"]
) -> tuple[Float[Tensor, "B H T M"], Float[Tensor, "B H T V"]]:
    """1/2 |S k - v|^2: the code is k, the direction what the slots do not yet reconstruct."""
    return k, v - k @ slots.mT


def encode(slots: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """1/2 |S^T v - k|^2: the code is what the slots do not yet answer, the direction v."""
    return k - v @ slots, v


def similarity(slots: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """-<S k, v>: code and direction know nothing of the slots."""
    return k, v


LOSSES: Mapping[str, Loss] = {"decode": decode, "encode": encode, "similarity": similarity}
