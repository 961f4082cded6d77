"""Memories that fit a window of the past at every token, all of it at the same old memory.

Specs: specs/rules/omega.md, Eq. 1 to 5, and specs/rules/atlas.md. Limit: window 1 with identity features is Titans.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from hecate_atlas.features import FEATURES, PARAMS, poly2, width_of
from hecate_atlas.newton_schulz import NewtonSchulzMomentum
from hecate_atlas.window import look_back
from hecate_core.api import (
    L2,
    Affine,
    AffineTokens,
    CompositionError,
    Factors,
    Float,
    Gate,
    Linearised,
    Pace,
    Param,
    Params,
    Refused,
    Shared,
    State,
    Structure,
    Tensor,
    Tokens,
    Weights,
    nearest,
    scaled,
)


class WindowRule:
    """S = momentum S - sum_j window_j grad_j, M = retain M + write S, with every grad_j at the old memory.

    grad_j is that of 1/2 |M(phi(k)) - v|^2 for the token j places back. `features` ("poly2", "identity") maps keys and
    queries to width P. With `orthogonal` the step is NS(S), with its rate "inside" S where it says so. State: `memory`,
    `momentum` where gates name one, `window` (k, v, filled) above size 1. Source: [2505.23735] Eq. 8-11, 32-33.
    """

    inputs: Mapping[str, str] = {"q": "K", "k": "K", "v": "V"}

    def __init__(
        self,
        name: str,
        *,
        structure: Structure,
        gates: Mapping[str, Gate],
        window: int,
        features: str,
        orthogonal: NewtonSchulzMomentum | None = None,
    ) -> None:
        if features not in FEATURES:
            raise CompositionError(f'{name}: features = "{features}"{nearest(features, FEATURES)}')
        self.name, self.spec, self.gates = name, f"rules/{name}.md", gates
        self._structure, self._bias, self._size, self._mapped = structure, L2(), window, features == "poly2"
        self._has_momentum = "momentum" in gates
        self._step_map = None if orthogonal is None else orthogonal.step_map
        # An orthogonal step has its length whatever the errors were; an MLP's ranges are measured with chunks of 16.
        self._span = None if self._step_map is not None else 1 if structure.linear else 16
        self._inside = orthogonal is not None and orthogonal.rate == "inside"
        weights = {one: attrs.evolve(p, axes=p.axes.replace("K", "P")) for one, p in structure.params.items()}
        before = {f"window_{one}": Param(f"H L {one.upper()}", learned=False) for one in ("k", "v")}
        self.params: Mapping[str, Param] = {
            **weights,
            **(PARAMS if self._mapped else {}),
            **(before if window > 1 else {}),
        }
        self.widths = {
            **getattr(structure, "widths", {}),
            "P": width_of(features),
            "J": lambda widths: window,
            "L": lambda widths: window - 1,
        }

    def init_state(self, params: Params, batch: int) -> State:
        """The starting weights, no momentum, an empty window."""

        def rows(one: Tensor) -> Tensor:
            return one.expand(batch, *one.shape)

        start = State.of({layer: rows(params[layer]) for layer in self._structure.layers})
        state = State(memory=start)
        if self._has_momentum:
            state = state.replace(momentum=start.map(torch.zeros_like))
        if self._size == 1:
            return state
        k, v = rows(params.window_k), rows(params.window_v)
        return state.replace(window=State(k=k, v=v, filled=torch.zeros_like(k[..., 0])))

    def step(self, params: Params, state: State, token: Tokens) -> tuple[Float[Tensor, "B H V"], State]:
        """Write one token, then read it: Eq. 1 to 4."""
        tokens, state = self._gather(params, state, token.map(lambda one: one.unsqueeze(2)), None)
        memory, momentum = {}, {}
        for layer, gradient in self._gradients(params, state.memory, tokens).items():
            surprise = -scaled(token.write, gradient) if self._inside else -gradient
            if self._has_momentum:
                surprise = momentum[layer] = scaled(token.momentum, state.momentum[layer]) + surprise
            move = surprise if self._step_map is None else self._step_map(surprise)
            move = move if self._inside else scaled(token.write, move)
            memory[layer] = scaled(token.retain, state.memory[layer]) + move
        new = state.replace(memory=State.of(memory), position=state.position + 1)
        if momentum:
            new = new.replace(momentum=State.of(momentum))
        return self.read(params, new, tokens.q).squeeze(2), new

    def read(self, params: Params, state: State, q: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """M(phi(q))."""
        return self._read(params, Shared(state.memory), q)

    def offers(self, form: type) -> Any:
        """`Affine` over c changes per token for one matrix and no Newton-Schulz; `Linearised` always."""
        if form is not Affine:
            momentum = "momentum" if self._has_momentum else None
            return Linearised(
                self._factors, self._read, memory="memory", momentum=momentum, pace=self._pace,
                step_map=self._step_map, group=self._size, gather=self._gather, span=self._span,
            )  # fmt: skip
        if self._step_map is not None:
            return Refused("algorithm: maps the step")
        if not self._structure.linear:
            return Refused("structure: not linear in its weights")
        (layer,) = self._structure.layers
        momentum = f"momentum.{layer}" if self._has_momentum else None
        return Affine(
            self._coefficients, memory=f"memory.{layer}", momentum=momentum, group=self._size, gather=self._gather
        )

    def _gather(self, params: Params, state: State, tokens: Tokens, write: Tensor | None) -> tuple[Tokens, State]:
        return look_back(state, tokens, write, self._size)

    def _features(self, params: Params, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T P"]:
        return poly2(params, x) if self._mapped else x

    def _read(self, params: Params, weights: Weights, q: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        return self._structure.trace(params, weights, self._features(params, q))[0]

    def _errors(self, params: Params, memory: State, tokens: Tokens) -> dict[str, tuple[Tensor, Tensor]]:
        """Of every window entry, per weight: window_j times the cotangent of its output, and its input."""
        keys, values = self._features(params, tokens.seen_k.flatten(2, 3)), tokens.seen_v.flatten(2, 3)
        weights = Shared(memory)
        prediction, trace = self._structure.trace(params, weights, keys)
        cotangent = self._bias.cotangent(prediction, values, tokens)
        pulled = self._structure.pullback(params, weights, trace, cotangent)
        share = tokens.share.flatten(2).unsqueeze(-1)
        return {layer: (share * pulled[layer], x) for layer, (x, _) in trace.items()}

    def _gradients(self, params: Params, memory: State, tokens: Tokens) -> dict[str, Tensor]:
        return {layer: d.mT @ x for layer, (d, x) in self._errors(params, memory, tokens).items()}

    def _factors(self, params: Params, anchor: State, tokens: Tokens) -> Factors:
        """A change per window entry, newest first, every error at the anchor."""
        step = -self._of_entries(tokens.write) if self._inside else -torch.ones_like(tokens.share.flatten(2))
        updates = {layer: (step.unsqueeze(-1) * d, x) for layer, (d, x) in self._errors(params, anchor, tokens).items()}
        keep, momentum, inject = self._pace(tokens)
        return Factors(keep, updates, momentum, inject)

    def _pace(self, tokens: Tokens) -> Pace:
        """A token's first change decays the momentum; its last one decays the memory and alone moves it. Eq. 5."""
        inject = torch.ones_like(tokens.write) if self._inside else tokens.write
        if not self._has_momentum:  # changes at an anchor may as well enter one by one, after the decay
            return Pace(self._first(tokens.retain, 1.0), None, self._of_entries(inject))
        return Pace(self._last(tokens.retain, 1.0), self._first(tokens.momentum, 1.0), self._last(inject, 0.0))

    def _coefficients(self, params: Params, tokens: Tokens) -> AffineTokens:
        """The same changes, each with the error of a memory that only the last of them moves: exact. Eq. 5."""
        share = tokens.share.flatten(2)
        q = self._features(params, tokens.q).repeat_interleave(self._size, 2)
        k, v = self._features(params, tokens.seen_k.flatten(2, 3)), tokens.seen_v.flatten(2, 3)
        keep, inject = self._last(tokens.retain, 1.0), self._last(tokens.write, 0.0)
        momentum = tokens.momentum if self._has_momentum else torch.zeros_like(tokens.write)
        return AffineTokens(q, k, v, keep, share, share, self._first(momentum, 1.0), inject)

    def _of_entries(self, gate: Float[Tensor, "B H T"]) -> Float[Tensor, "B H T*c"]:
        return gate.repeat_interleave(self._size, 2)

    def _first(self, gate: Float[Tensor, "B H T"], rest: float) -> Float[Tensor, "B H T*c"]:
        """The gate at a token's first change, `rest` at the others."""
        return F.pad(gate.unsqueeze(-1), (0, self._size - 1), value=rest).flatten(2)

    def _last(self, gate: Float[Tensor, "B H T"], rest: float) -> Float[Tensor, "B H T*c"]:
        """The gate at a token's last change, `rest` at the others."""
        return F.pad(gate.unsqueeze(-1), (self._size - 1, 0), value=rest).flatten(2)
