"""Lattice: orthogonal state recurrence over slots on the unit sphere.

Spec: specs/rules/lattice.md, Eq. 1 to 6. Limit: a token parallel to a slot leaves that slot as it is.
"""

from collections.abc import Mapping
from typing import Any

import torch

from hecate_core.api import (
    RETAIN,
    WRITE,
    Affine,
    CompositionError,
    Factors,
    Float,
    Gate,
    Linearised,
    Param,
    Params,
    Refused,
    Sequenced,
    State,
    Tensor,
    Tokens,
    Weights,
    nearest,
    scaled,
    sequence,
    times,
    times_transposed,
)
from hecate_lattice.losses import LOSSES
from hecate_lattice.op import LatticeTokens
from hecate_lattice.sphere import on_sphere


class Lattice:
    """s_i <- normalise(retain s_i + write c_i (I - s_i s_i^T) w) for M unit slots s_i; y = S q.

    `variant` is the inner loss: "decode", "encode" or "similarity". `decay` adds a retain gate, which only
    enlarges the step: the sphere itself is the retention. Keys and queries are slot codes of width M. State:
    `memory.slots` `[B, H, V, M]`. Source: [2504.05646]; equations restated in the spec.
    """

    name = "lattice"
    spec = "rules/lattice.md"
    inputs: Mapping[str, str] = {"q": "M", "k": "M", "v": "V"}
    widths: Mapping[str, tuple[float, str]] = {"M": (1, "V")}

    def __init__(self, *, variant: str = "decode", decay: bool = False) -> None:
        if variant not in LOSSES:
            raise CompositionError(f'lattice: variant = "{variant}"{nearest(variant, LOSSES)}')
        self._variant, self._loss = variant, LOSSES[variant]
        self._decays = decay
        reason = "the sphere takes back what a decay takes away; only the next step grows by it"
        self.expected_failures = {"retain-one-keeps-everything": reason} if decay else {}
        self.gates: Mapping[str, Gate] = {"write": WRITE, **({"retain": RETAIN.narrowed(low=0.5)} if decay else {})}
        self.params: Mapping[str, Param] = {"slots": Param("H V M", start=1.0)}

    def init_state(self, params: Params, batch: int) -> State:
        """The learned first slots, on the sphere."""
        first = on_sphere(params.slots)
        return State(memory=State(slots=first.expand(batch, *first.shape)))

    def step(self, params: Params, state: State, token: Tokens) -> tuple[Float[Tensor, "B H V"], State]:
        """Write one token, then read it: Eq. 1 to 5."""
        slots: Tensor = state.memory.slots
        c, w = (one.squeeze(2) for one in self._loss(slots, token.k.unsqueeze(2), token.v.unsqueeze(2)))
        lacking = w.unsqueeze(-1) - slots * times_transposed(slots, w).unsqueeze(-2)  # column i: (I - s_i s_i^T) w
        moved = scaled(token.write, c.unsqueeze(-2) * lacking)
        kept = scaled(token.retain, slots) if self._decays else slots
        new = state.replace(memory=State(slots=on_sphere(kept + moved)), position=state.position + 1)
        return times(new.memory.slots, token.q), new

    def read(self, params: Params, state: State, q: Float[Tensor, "B H T M"]) -> Float[Tensor, "B H T V"]:
        """S q, with the slots on the sphere: inside a chunk of `frozen` the stored ones are not."""
        return q @ on_sphere(state.memory.slots).mT

    def offers(self, form: type) -> Any:
        """Its step as the op `lattice`; `Linearised` with a decay per slot; no `Affine`, the sphere is in the way."""
        if form is Sequenced:
            return Sequenced("lattice", self._sequence)
        if form is Affine:
            return Refused("retention: slots return to the sphere after every token")
        return Linearised(self._factors, _read, memory="memory", axis="column", project=on_sphere)

    def _sequence(
        self, pair: Any, params: Params, state: State, tokens: Tokens, write: Tensor | None
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """All tokens of a call by one op: Eq. 1 to 5, and the section Gradient (VJP)."""
        due = None if write is None else write.unsqueeze(1).expand_as(tokens.write)
        retain = tokens.retain if self._decays else None
        given = LatticeTokens(tokens.q, tokens.k, tokens.v, tokens.write, retain, due)
        y, slots = sequence(pair, given, state.memory.slots, self._variant)
        return y, state.put("memory.slots", slots).replace(position=state.position + tokens.q.shape[2])

    def _factors(self, params: Params, anchor: State, tokens: Tokens) -> Factors:
        """Code, direction and what a slot already has of it, at the anchor: a gate per slot and token. Eq. 6."""
        c, w = self._loss(anchor.slots, tokens.k, tokens.v)
        write = tokens.write.unsqueeze(-1)
        keep = tokens.retain.unsqueeze(-1) if self._decays else torch.ones_like(write)
        return Factors(keep - write * c * (w @ anchor.slots), {"slots": (write * w, c)})


def _read(params: Params, weights: Weights, q: Float[Tensor, "B H T M"]) -> Float[Tensor, "B H T V"]:
    return weights.apply("slots", q)
