"""A rule as `frozen` shows it to layers: its plain reads are those of the strategy.

While a level rests, its reads ask the rule and not the strategy. Where the strategy reads another memory than the
stored one (an anchor, weights linked once per chunk, a projection), both have to see the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from hecate_core.gates import Gate
from hecate_core.protocols import MemoryRule, Param
from hecate_core.records import Params, State, Tokens
from hecate_core.shapes import Bool, Float, Tensor

Read = Callable[[MemoryRule, Params, State, Tensor], Tensor]


class Anchored:
    """The rule, but for `read`."""

    def __init__(self, rule: MemoryRule, read: Read) -> None:
        self.rule, self._read = rule, read
        self.name, self.spec = rule.name, rule.spec
        self.inputs: Mapping[str, str] = rule.inputs
        self.gates: Mapping[str, Gate] = rule.gates
        self.params: Mapping[str, Param] = rule.params
        self.widths: Mapping[str, tuple[float, str]] = getattr(rule, "widths", {})

    def init_state(self, params: Params, batch: int) -> State:
        """The rule's own."""
        return self.rule.init_state(params, batch)

    def step(self, params: Params, state: State, token: Tokens) -> tuple[Float[Tensor, "B H V"], State]:
        """The rule's own."""
        return self.rule.step(params, state, token)

    def read(self, params: Params, state: State, q: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """What a token of the strategy would read that writes nothing."""
        return self._read(self.rule, params, state, q)

    def offers(self, form: Any) -> Any:
        """The rule's own."""
        return self.rule.offers(form)


def back_in_domain(
    stored: Mapping[str, Tensor], project: Callable[[Tensor], Tensor], written: Bool[Tensor, "..."]
) -> dict[str, Tensor]:
    """Stored weights, projected where something was written since they last were.

    A projection that shrinks (soft thresholding) would take more each time; a memory that rests stays as it is.
    `written` is `[B]`, or `[B, T]` for weights of every token.
    """
    found = {}
    for name, matrix in stored.items():
        due = written.view(written.shape[0], 1, *written.shape[1:], 1, 1)  # B (1: heads) [T] V K
        found[name] = torch.where(due, project(matrix), matrix)
    return found
