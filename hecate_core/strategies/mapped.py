"""Weights whose momentum passes through a map before it enters the memory: Newton-Schulz and its like.

The momentum of every token is formed, `[B, H, T, V, K]`; the map takes them all at once.
"""

from collections.abc import Callable

import torch

from hecate_core.forms import Factors
from hecate_core.ops.decay import products
from hecate_core.shapes import Float, Tensor
from hecate_core.strategies.grown import Joint, Stored
from hecate_core.weights import PerToken


class GrownMapped:
    """A_t = keep_t A_{t-1} + inject_t step_map(S_t) for known updates; the memory of every token is formed.

    `group` changes in a row are one token: its keep is their product, its inject that of the last.
    Source: [2505.23735] Eq. 34-41 (parallel form of Atlas); specs/forms/linearised.md, Eq. 10.
    """

    def __init__(self, stored: Stored, factors: Factors, step_map: Callable[[Tensor], Tensor], group: int = 1) -> None:
        assert factors.momentum is not None, "a mapped step is the step of a momentum"
        last = slice(group - 1, None, group)
        spread = products(factors.momentum)[:, :, 1:][:, :, last]  # B H T 1+changes
        keeps = products(factors.keep.unflatten(2, (-1, group)).prod(-1))[:, :, 1:]  # B H T 1+T
        self._ends: dict[str, Joint] = {}
        self._every: dict[str, Tensor] = {}
        for name, (u, x) in factors.updates.items():
            first = stored[name].both
            changes = (u.unsqueeze(-1) * x.unsqueeze(-2)).flatten(3)
            momenta = spread[..., 1:] @ changes + spread[..., :1] * first[:, :, 1:].flatten(3)
            moves = step_map(momenta.unflatten(3, first.shape[3:])).flatten(3)
            if factors.inject is not None:
                moves = factors.inject[:, :, last].unsqueeze(-1) * moves
            grown = keeps[..., 1:] @ moves + keeps[..., :1] * first[:, :, :1].flatten(3)
            self._every[name] = grown.unflatten(3, first.shape[3:])
            memory, momentum = (one[:, :, -1].unflatten(2, first.shape[3:]) for one in (grown, momenta))
            self._ends[name] = Joint(torch.stack((memory, momentum), 2), memory)
        self._weights = PerToken(self._every)

    def apply(self, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """See `Weights.apply`."""
        return self._weights.apply(name, x)

    def pull(self, name: str, d: Float[Tensor, "B H T V"]) -> Float[Tensor, "B H T K"]:
        """See `Weights.pull`."""
        return self._weights.pull(name, d)

    def every(self, name: str) -> Float[Tensor, "B H T V K"]:
        """The stored weight after each token."""
        return self._every[name]

    def last(self) -> dict[str, Joint]:
        """What survives of each weight after the last token."""
        return self._ends
