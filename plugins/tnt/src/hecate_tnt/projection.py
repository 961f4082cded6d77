"""The Q-K projection: queries seen through the keys that a memory has been given.

Spec: specs/strategies/tnt.md, Eq. 3. P = sum of k k^T / |k|^2, a running sum and no parameter.
"""

import torch

from hecate_core.api import Bool, Float, Tensor

PIECE = 64  # tokens whose products are formed at once
FLOOR = 1e-12  # a key of zero points nowhere


def projected(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    before: Float[Tensor, "B H K K"],
    write: Bool[Tensor, "B T"] | None,
) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B H K K"]]:
    """P_t q_t for every token, its own key included, and P after the last; keys that are not written do not count."""
    unit = k / torch.linalg.vector_norm(k, dim=-1, keepdim=True).clamp_min(FLOOR)
    if write is not None:
        unit = torch.where(write[:, None, :, None], unit, 0.0)
    reads = []
    for query, key in zip(q.split(PIECE, 2), unit.split(PIECE, 2), strict=True):
        reads.append(query @ before.mT + torch.tril(query @ key.mT) @ key)
        before = before + key.mT @ key
    return torch.cat(reads, 2), before
