"""Weights that grow by rank-one updates: reads of every token's memory without forming one.

A_t = b_t A_0 + g_t S_0 + sum over i <= t of reach_ti u_i x_i^T, applied as masked linear attention
(specs/forms/linearised.md, Eq. 3).
"""

from collections.abc import Mapping

import torch

from hecate_core.forms import Factors
from hecate_core.ops.decay import between
from hecate_core.records import State
from hecate_core.shapes import Float, Tensor
from hecate_core.weights import PerToken


class Grown:
    """Weights per token that grow by rank-one updates, applied without being formed.

    With per-channel decay ("column", "row") the products are vectors; ratios are taken from logarithms.
    """

    def __init__(self, memory: State, momentum: State | None, factors: Factors, axis: str) -> None:
        self._updates, self._axis = factors.updates, axis
        self._memory: Mapping[str, Tensor] = memory
        self._momentum: Mapping[str, Tensor] | None = momentum
        if axis == "scalar":
            keeps = between(factors.keep)  # [B, H, T+1, T+1]
        else:
            keeps = between(factors.keep.mT).movedim(2, -1)  # [B, H, T+1, T+1, channels]
        reach = keeps[:, :, :, 1:]
        self._reach_start: Tensor | None = None
        self._momenta: Tensor | None = None
        if factors.inject is not None:
            shape = (*factors.inject.shape[:2], 1, -1, *[1] * (reach.dim() - 4))
            reach = reach * factors.inject.view(shape)
        if factors.momentum is not None:
            self._momenta = between(factors.momentum)
            reach = torch.einsum("bhts...,bhsi->bhti...", reach, self._momenta[:, :, 1:])
            self._reach_start, reach = reach[:, :, 1:, 0], reach[:, :, :, 1:]
        self._began, self._reach = keeps[:, :, 1:, 0], reach[:, :, 1:]

    def apply(self, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """See `Weights.apply`: b (x A_0^T) + g (x S_0^T) + (reach * x X^T) U."""
        u, keys = self._updates[name]
        if self._axis == "column":
            y = (self._began * x) @ self._memory[name].mT
            scores: Tensor = torch.einsum("bhtk,bhtik,bhik->bhti", x, self._reach, keys)
        else:
            y = _rows(self._began) * (x @ self._memory[name].mT)
            scores = x @ keys.mT
        if self._reach_start is not None and self._momentum is not None:
            if self._axis == "column":
                y = y + (self._reach_start * x) @ self._momentum[name].mT
            else:
                y = y + _rows(self._reach_start) * (x @ self._momentum[name].mT)
        if self._axis == "row":
            y = y + torch.einsum("bhti,bhtiv,bhiv->bhtv", scores, self._reach, u)
            return y
        return y + (scores if self._axis == "column" else self._reach * scores) @ u

    def pull(self, name: str, d: Float[Tensor, "B H T V"]) -> Float[Tensor, "B H T K"]:
        """See `Weights.pull`; formed per token, only reads with a gradient inside would need it."""
        return PerToken({name: self.every(name)}).pull(name, d)

    def every(self, name: str) -> Float[Tensor, "B H T V K"]:
        """The stored weight after each token, formed: for links, which need every entry."""
        u, keys = self._updates[name]
        grown = {
            "scalar": lambda: torch.einsum("bhti,bhiv,bhik->bhtvk", self._reach, u, keys),
            "column": lambda: torch.einsum("bhtik,bhiv,bhik->bhtvk", self._reach, u, keys),
            "row": lambda: torch.einsum("bhtiv,bhiv,bhik->bhtvk", self._reach, u, keys),
        }[self._axis]()
        grown = grown + self._factor(self._began) * self._memory[name].unsqueeze(2)
        if self._reach_start is not None and self._momentum is not None:
            grown = grown + self._factor(self._reach_start) * self._momentum[name].unsqueeze(2)
        return grown

    def last(self) -> tuple[State, State | None]:
        """Stored weights and momentum after the last token."""
        memory: dict[str, Tensor] = {}
        momentum: dict[str, Tensor] = {}
        end = self._reach[:, :, -1]  # [B, H, T] or [B, H, T, channels]
        for name, (u, keys) in self._updates.items():
            if self._axis == "column":
                grown = u.mT @ (end * keys)
            else:
                grown = (_rows(end) * u).mT @ keys
            memory[name] = self._factor(self._began)[:, :, -1] * self._memory[name] + grown
            if self._momenta is not None and self._reach_start is not None and self._momentum is not None:
                memory[name] = memory[name] + self._factor(self._reach_start)[:, :, -1] * self._momentum[name]
                recent = self._momenta[:, :, -1, 1:, None]
                carried = self._momenta[:, :, -1, 0, None, None]
                momentum[name] = carried * self._momentum[name] + (recent * u).mT @ keys
        return State.of(memory), State.of(momentum) if momentum else None

    def _factor(self, decay: Tensor) -> Tensor:
        """A decay per token shaped to multiply `[B, H, T, V, K]`."""
        if self._axis == "scalar":
            return decay[..., None, None]
        return decay.unsqueeze(-2) if self._axis == "column" else decay.unsqueeze(-1)


def _rows(factor: Tensor) -> Tensor:
    """`[B, H, T]` or `[B, H, T, V]` as a factor of rows `[B, H, T, V]`."""
    return factor.unsqueeze(-1) if factor.dim() == 3 else factor
