"""Weights that grow by rank-one updates: reads of every token's memory without forming one.

Z = [A, S] holds a weight's stored matrix and, with momentum, its momentum: `[B, H, J, V, K]`. Reads go through
the op `decayed_linear`, which also yields Z after the chunk.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from hecate_core.ops.decayed_linear import DecayedLinearPair, Decays, Reads, decayed_linear
from hecate_core.shapes import Float, Tensor
from hecate_core.weights import PerToken

Updates = Mapping[str, tuple[Tensor, Tensor]]


class Joint(NamedTuple):
    """What survives of one weight: Z, and its first part A beside it, a view whose gradient costs nothing extra."""

    both: Float[Tensor, "B H J V K"]
    memory: Float[Tensor, "B H V K"]


Stored = Mapping[str, Joint]


class Grown:
    """Weights per token under one decay per token, applied without being formed (specs/forms/linearised.md, Eq. 3)."""

    def __init__(self, stored: Stored, updates: Updates, decays: Decays, pair: DecayedLinearPair) -> None:
        self._stored, self._updates, self._decays, self._pair = stored, updates, decays, pair
        self._ends: dict[str, Joint] = {}

    def apply(self, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """See `Weights.apply`."""
        u, inputs = self._updates[name]
        y, *end = decayed_linear(Reads(x, u, inputs), self._stored[name].both, self._decays, self._pair)
        self._ends.setdefault(name, Joint._make(end))
        return y

    def pull(self, name: str, d: Float[Tensor, "B H T V"]) -> Float[Tensor, "B H T K"]:
        """See `Weights.pull`; formed per token, only reads with a gradient inside would need it."""
        return PerToken({name: self.every(name)}).pull(name, d)

    def before(self) -> "Grown":
        """The same weights as each token meets them, before its own update."""
        first = torch.zeros_like(self._decays.reads[:, :, :1])
        first[..., 0] = 1.0
        reads = torch.cat((first, self._decays.reads[:, :, :-1]), 2)
        none = torch.zeros_like(self._decays.reach[:, :, :1])
        reach = torch.cat((none, self._decays.reach[:, :, :-1]), 2)
        return Grown(self._stored, self._updates, self._decays._replace(reads=reads, reach=reach), self._pair)

    def every(self, name: str) -> Float[Tensor, "B H T V K"]:
        """The stored weight after each token, formed: for links, which need every entry."""
        (u, x), decays = self._updates[name], self._decays
        changes = (u.unsqueeze(-1) * x.unsqueeze(-2)).flatten(3)  # B H T VK
        grown: Tensor = decays.reach @ changes + decays.reads @ self._stored[name].both.flatten(3)
        shaped: Tensor = grown.unflatten(3, self._stored[name].both.shape[3:])
        return shaped

    def through(self, link: Any, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """link(W) x by the op of the link, which keeps no weight of a token."""
        u, inputs = self._updates[name]
        y: Tensor = link.read(Reads(x, u, inputs), self._stored[name].both, self._decays)
        return y

    def last(self) -> dict[str, Joint]:
        """What survives of each weight after the last token."""
        return {name: self._ends[name] if name in self._ends else self._end(name) for name in self._updates}

    def _end(self, name: str) -> Joint:
        """The end without a read: the op with no queries."""
        u, x = self._updates[name]
        silent = self._decays._replace(reach=self._decays.reach[:, :, :0], reads=self._decays.reads[:, :, :0])
        return Joint._make(decayed_linear(Reads(x[:, :, :0], u, x), self._stored[name].both, silent, self._pair)[1:])


class Linked:
    """What reads see of grown weights behind a link that has an op of its own."""

    def __init__(self, grown: Grown, link: Any) -> None:
        self._grown, self._link = grown, link

    def apply(self, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """See `Weights.apply`."""
        return self._grown.through(self._link, name, x)

    def pull(self, name: str, d: Float[Tensor, "B H T V"]) -> Float[Tensor, "B H T K"]:
        """See `Weights.pull`; formed per token, only reads with a gradient inside would need it."""
        return PerToken({name: self._link(self._grown.every(name))}).pull(name, d)


def stacked(memory: Mapping[str, Tensor], momentum: Mapping[str, Tensor] | None) -> dict[str, Joint]:
    """Memory and momentum of every weight, side by side."""
    if momentum is None:
        return {name: Joint(matrix.unsqueeze(2), matrix) for name, matrix in memory.items()}
    return {name: Joint(torch.stack((matrix, momentum[name]), 2), matrix) for name, matrix in memory.items()}


def memories(stored: Stored) -> dict[str, Tensor]:
    """Every weight's memory."""
    return {name: joint.memory for name, joint in stored.items()}


def momenta(stored: Stored) -> dict[str, Tensor]:
    """Every weight's momentum."""
    return {name: joint.both.select(2, 1) for name, joint in stored.items()}
