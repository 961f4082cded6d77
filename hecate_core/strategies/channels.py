"""Weights that grow under a decay per channel: columns (inputs) or rows (outputs) of a matrix.

The products of decays are vectors here, so scores carry a channel axis and plain torch does the work.
"""

import torch

from hecate_core.forms import Factors
from hecate_core.ops.decay import products
from hecate_core.shapes import Float, Tensor
from hecate_core.strategies.erasing import earlier, solved
from hecate_core.strategies.grown import Joint, Stored
from hecate_core.weights import PerToken


class GrownChannels:
    """Weights per token under a decay per "column" `[B, H, T, K]` or "row" `[B, H, T, V]`, negative ones included."""

    def __init__(self, stored: Stored, factors: Factors, axis: str) -> None:
        self._stored, self._updates, self._column = stored, dict(factors.updates), axis == "column"
        keeps = products(factors.keep.mT, signed=True).movedim(2, -1)  # B H T+1 T+1 channels
        reach = keeps[:, :, :, 1:]
        self._start: Tensor | None = None
        self._momenta: Tensor | None = None
        if factors.inject is not None:
            reach = reach * factors.inject[:, :, None, :, None]
        if factors.momentum is not None:
            self._momenta = products(factors.momentum)
            reach = torch.einsum("bhtsc,bhsi->bhtic", reach, self._momenta[:, :, 1:])
            self._start, reach = reach[:, :, 1:, 0], reach[:, :, :, 1:]
        self._began, self._reach = keeps[:, :, 1:, 0], reach[:, :, 1:]
        for name, e in (factors.erase or {}).items():
            self._updates[name] = self._settled(name, e)

    def _settled(self, name: str, e: Float[Tensor, "B H T K"]) -> tuple[Tensor, Tensor]:
        """A weight's updates with its erase taken back: specs/forms/linearised.md, Eq. 13, by rows one for each."""
        u, inputs = self._updates[name]
        began = earlier(self._began, torch.ones_like(self._began[:, :, :1]))
        reach = earlier(self._reach, torch.zeros_like(self._reach[:, :, :1]))
        u = u - self._through(began, e, self._stored[name].memory)
        if self._start is not None:
            start = earlier(self._start, torch.zeros_like(self._start[:, :, :1]))
            u = u - self._through(start, e, self._stored[name].both[:, :, 1])
        if self._column:
            return solved(torch.einsum("bhtk,bhtik,bhik->bhti", e, reach, inputs), u), inputs
        scores = ((e @ inputs.mT).unsqueeze(-1) * reach).movedim(-1, 2)  # B H V T T
        return solved(scores, u.mT.unsqueeze(-1)).squeeze(-1).mT, inputs

    def apply(self, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """See `Weights.apply`."""
        u, inputs = self._updates[name]
        y = self._through(self._began, x, self._stored[name].memory)
        if self._start is not None:
            y = y + self._through(self._start, x, self._stored[name].both[:, :, 1])
        if self._column:
            return y + torch.einsum("bhtk,bhtik,bhik->bhti", x, self._reach, inputs) @ u
        return y + torch.einsum("bhti,bhtiv,bhiv->bhtv", x @ inputs.mT, self._reach, u)

    def pull(self, name: str, d: Float[Tensor, "B H T V"]) -> Float[Tensor, "B H T K"]:
        """See `Weights.pull`; formed per token."""
        return PerToken({name: self.every(name)}).pull(name, d)

    def every(self, name: str) -> Float[Tensor, "B H T V K"]:
        """The stored weight after each token, formed."""
        u, inputs = self._updates[name]
        channel = "k" if self._column else "v"
        grown: Tensor = torch.einsum(f"bhti{channel},bhiv,bhik->bhtvk", self._reach, u, inputs)
        grown = grown + self._wide(self._began) * self._stored[name].both[:, :, :1]
        if self._start is not None:
            grown = grown + self._wide(self._start) * self._stored[name].both[:, :, 1:]
        return grown

    def last(self) -> dict[str, Joint]:
        """What survives of each weight after the last token."""
        ends, final = {}, self._reach[:, :, -1]  # B H T channels
        for name, (u, inputs) in self._updates.items():
            stored = self._stored[name].both
            grown = u.mT @ (final * inputs) if self._column else (final * u).mT @ inputs
            memory = self._wide(self._began)[:, :, -1] * stored[:, :, 0] + grown
            parts = [memory]
            if self._momenta is not None and self._start is not None:
                parts[0] = memory + self._wide(self._start)[:, :, -1] * stored[:, :, 1]
                recent = self._momenta[:, :, -1, 1:, None]
                carried = self._momenta[:, :, -1, 0, None, None]
                parts.append(carried * stored[:, :, 1] + (recent * u).mT @ inputs)
            ends[name] = Joint(torch.stack(parts, 2), parts[0])
        return ends

    def _through(self, share: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
        """x through a matrix with its channels weighed per token."""
        return (share * x) @ matrix.mT if self._column else share * (x @ matrix.mT)

    def _wide(self, share: Tensor) -> Tensor:
        """A share per token and channel, shaped to multiply `[B, H, T, V, K]`."""
        return share.unsqueeze(-2) if self._column else share.unsqueeze(-1)
