"""The erase inside a chunk: what the running memory answers along each token's erase, taken back once for all tokens.

    u'_t = u_t - A_{t-1} e_t,    A_{t-1} = sum_j reads_{t-1,j} Z_j + sum over i < t of reach_{t-1,i} u'_i x_i^T

is a triangular system in the u' of the chunk; with its solution the memory grows as if nothing were erased
(specs/forms/linearised.md, Eq. 13).
"""

import torch

from hecate_core.forms import Factors
from hecate_core.ops.decayed_linear import Decays
from hecate_core.precision import full_precision, widened
from hecate_core.shapes import Float, Tensor
from hecate_core.strategies.grown import Stored, Updates


def settled(factors: Factors, stored: Stored, decays: Decays) -> Updates:
    """The updates with the erase taken back, under one decay per token."""
    if factors.erase is None:
        return factors.updates
    first = torch.zeros_like(decays.reads[:, :, :1])
    first[..., 0] = 1.0  # before the first token the memory is what is stored
    reads = earlier(decays.reads, first)
    reach = earlier(decays.reach, torch.zeros_like(decays.reach[:, :, :1]))
    found = dict(factors.updates)
    for name, e in factors.erase.items():
        u, x = factors.updates[name]
        answers = torch.einsum("bhjvk,bhtk,bhtj->bhtv", stored[name].both, e, reads)
        found[name] = solved(reach * (e @ x.mT), u - answers), x
    return found


def earlier(each: Tensor, first: Tensor) -> Tensor:
    """What held before each token, from what holds after it; `first` before the first one. Tokens are axis 2."""
    return torch.cat((first, each[:, :, :-1]), 2)


def solved(scores: Float[Tensor, "... T T"], u: Float[Tensor, "... T V"]) -> Float[Tensor, "... T V"]:
    """U' of (I + scores) U' = U; `scores` is strictly lower triangular."""
    right = widened(u)
    with full_precision(u.device):
        made: Tensor = torch.linalg.solve_triangular(scores.to(right.dtype), right, upper=False, unitriangular=True)
    return made
