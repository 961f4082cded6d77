"""Newton-Schulz steps on the last two axes: a matrix of the same singular vectors, singular values near 1.

Spec: specs/optimizers/muon.md, Eq. 3. In float32 or wider; torch's own steps are in bfloat16.
"""

import torch

from hecate_core.api import Float, InputError, Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
FLOOR = 1e-7  # added to the norm: zero stays zero


def orthogonal(matrix: Float[Tensor, "... V K"], steps: int = 5) -> Float[Tensor, "... V K"]:
    """X = S / |S|, then `steps` times X <- a X + b (X X^T) X + c (X X^T)^2 X; scale-free and odd.

    The quintic does not converge: well-conditioned singular values end in about [0.7, 1.2], tiny ones below.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]  # the small side is squared
    x = matrix.mT if tall else matrix
    x = x / (frobenius(x) + FLOOR)
    a, b, c = QUINTIC
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.mT if tall else x


def frobenius(matrix: Float[Tensor, "... V K"]) -> Float[Tensor, "... 1 1"]:
    """|S| of each matrix."""
    size: Tensor = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    return size


def of_unit_size(matrix: Float[Tensor, "... V K"]) -> Float[Tensor, "... V K"]:
    """Each matrix over the root mean square of its entries; zero stays zero."""
    size = matrix.square().mean((-2, -1), keepdim=True).sqrt()
    return matrix / size.clamp_min(torch.finfo(matrix.dtype).tiny)


def at_least(least: int, name: str, value: object) -> int:
    """The value; InputError unless it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"optimizer.{name} = {value!r}; expected an integer >= {least}")
    return value
