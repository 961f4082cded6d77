"""A rule made of the four knobs: structure, attentional bias, retention, algorithm.

Named rules (delta, titans ...) are presets of this class. `step` reads like the mathematics
(specs/forms/composed.md); what the rule offers to strategies is derived from what its knobs declare.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hecate_core.compatibility import clash, contracting, declared, stands_apart
from hecate_core.errors import CompositionError
from hecate_core.forms import Affine, Factors, Linearised, Pace, Refused
from hecate_core.gates import Gate, narrowed_gates
from hecate_core.ops.affine import AffineTokens
from hecate_core.ops.affine_column import ColumnTokens
from hecate_core.protocols import Algorithm, AttentionalBias, FormT, Param, Rates, Retention, Structure
from hecate_core.records import Params, State, Tokens
from hecate_core.shapes import Float, Tensor
from hecate_core.steadying import steadied, steepness
from hecate_core.weights import Kept, Shared, Turned, Weights, along, share_along

NETWORK_SPAN = 16  # the ranges of networks are measured with errors taken 16 tokens at a time


class ComposedRule:
    """A memory rule from its knobs; `narrow` shrinks gate ranges or moves their start.

    Ranges: specs/forms/composed.md, Eq. 8 to 13. `span` is how many tokens may take their errors at one memory in
    them (None: derived).
    State: `memory`, a record with what is stored per weight `[B, H, rows, columns]`, and with a momentum
    algorithm `momentum`, the same shapes. Raises CompositionError for knobs that cannot work together.
    """

    inputs: Mapping[str, str] = {"q": "K", "k": "K", "v": "V"}

    def __init__(
        self,
        name: str,
        *,
        structure: Structure,
        bias: AttentionalBias,
        retention: Retention,
        algorithm: Algorithm,
        spec: str = "",
        narrow: Mapping[str, Mapping[str, float]] | None = None,
        span: int | None = None,
    ) -> None:
        self.name, self.spec = name, spec
        self.structure, self.bias, self.retention, self.algorithm = structure, bias, retention, algorithm
        gates = _union_of_gates(name, bias, retention, algorithm)
        self.params: Mapping[str, Param] = structure.params
        self.widths: Mapping[str, tuple[float, str]] = getattr(structure, "widths", {})
        self._advance = declared(retention, "advance")
        self._along = declared(retention, "erase")  # forgetting along the input
        reason = clash(structure, bias, retention, algorithm)
        if reason:
            raise CompositionError(f"{name}: {reason}")
        try:
            gates = contracting(structure, bias, retention, algorithm, gates)
            if narrow is None:
                gates = steadied(structure, bias, retention, algorithm, gates)
        except CompositionError as error:
            raise CompositionError(f"{name}: {error}") from None
        self.gates: Mapping[str, Gate] = narrowed_gates(gates, narrow or {}, name)
        self._span = self._spanned(span)
        # A step that is summed or scaled before it enters the memory cannot carry what the retention takes out.
        self._beside = self._along is not None and stands_apart(algorithm, gates)

    def init_state(self, params: Params, batch: int) -> State:
        """The starting weights for every row, taken back through the link; momentum starts at 0."""
        start = {layer: params[layer].expand(batch, *params[layer].shape) for layer in self.structure.layers}
        if self.retention.inverse is not None:
            start = {layer: self.retention.inverse(weight) for layer, weight in start.items()}
        state = State(memory=State.of(start))
        if self.algorithm.has_momentum:
            state = state.replace(momentum=State.of({layer: torch.zeros_like(w) for layer, w in start.items()}))
        return state

    def step(self, params: Params, state: State, token: Tokens) -> tuple[Float[Tensor, "B H V"], State]:
        """Write one token, then read it: specs/forms/composed.md, Eq. 1 to 5."""
        tokens = token.map(lambda one: one.unsqueeze(2))  # the knobs are written for a T axis
        factors = self._factors(params, state.memory, tokens)
        memory, momentum = {}, {}
        for layer, move in factors.moves(state.memory).items():
            if factors.momentum is not None:
                move = factors.momentum.unsqueeze(-1) * state.momentum[layer] + move
                momentum[layer] = move
            if self.algorithm.step_map is not None:
                move = self.algorithm.step_map(move)
            if factors.inject is not None:
                move = factors.inject.unsqueeze(-1) * move
            kept = _decayed(factors.keep, state.memory[layer], self.retention.axis)
            if self._beside:
                kept = kept - self._taken(tokens, state.memory[layer], factors.updates[layer][1])
            stored = kept + move if self._advance is None else self._advance(kept, move)
            memory[layer] = stored if self.retention.project is None else self.retention.project(stored)
        new = state.replace(memory=State.of(memory), position=state.position + 1)
        if momentum:
            new = new.replace(momentum=State.of(momentum))
        return self.read(params, new, tokens.q).squeeze(2), new

    def read(self, params: Params, state: State, q: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """What the structure answers with the present weights."""
        return self._read(params, Shared(self._weights(state.memory)), q)

    def offers(self, form: type[FormT]) -> FormT | Refused:
        """Derived from the knobs: `Affine` for a linear structure with an affine bias and no map on the way."""
        answer: Any = self._affine() if form is Affine else self._linearised()
        return answer  # type: ignore[no-any-return]

    def _read(self, params: Params, weights: Weights, q: Tensor) -> Tensor:
        predict = declared(self.structure, "predict")
        return self.structure.trace(params, weights, q)[0] if predict is None else predict(params, weights, q)

    def _weights(self, stored: State) -> Mapping[str, Tensor]:
        return stored if self.retention.link is None else stored.map(self.retention.link)

    def _factors(self, params: Params, stored: State, tokens: Tokens) -> Factors:
        """Every token's rank-one change, its gradient taken at the `stored` weights."""
        keep, rates = self.retention.keep(tokens), self.algorithm.rates(tokens)
        seen: Weights = Shared(self._weights(stored))
        if self.algorithm.at == "kept":
            old, seen = seen, Kept(seen, keep, self.retention.axis)
            seen = seen if self._along is None else Turned(seen, old, self._along(tokens))
        prediction, trace = self.structure.trace(params, seen, tokens.k)
        pulled = self.structure.pullback(params, seen, trace, self.bias.cotangent(prediction, tokens.v, tokens))
        step = -rates.write.unsqueeze(-1)
        updates = {layer: (step * pulled[layer], x) for layer, (x, _) in trace.items()}
        if rates.erase is None:
            erase = None
            if self._along is not None and not self._beside:
                erase = {layer: along(self._along(tokens), x) for layer, (x, _) in trace.items()}
            return Factors(keep, updates, rates.momentum, rates.inject, erase)
        rate = rates.erase.unsqueeze(-1)
        if self.algorithm.at == "kept":
            if self.retention.axis == "row":  # no vector is read of A as its decayed rows answer x
                updates = {layer: (u - rate * trace[layer][1], x) for layer, (u, x) in updates.items()}
                return Factors(keep, updates, rates.momentum, rates.inject)
            rate = rate * (keep.unsqueeze(-1) if keep.dim() == 3 else keep)
        erase = {layer: rate * x for layer, (x, _) in trace.items()}
        return Factors(keep, updates, rates.momentum, rates.inject, erase)

    def _taken(self, tokens: Tokens, old: Tensor, x: Float[Tensor, "B H 1 K"]) -> Float[Tensor, "B H V K"]:
        """What the retention takes out of a weight along its input, for one token."""
        assert self._along is not None
        return (along(self._along(tokens), x) @ old.mT).mT @ x

    def _affine(self) -> Affine | Refused:
        for holds, reason in (
            (self.structure.linear, "structure: not linear in its weights"),
            (self.bias.affine is not None, "bias: not affine in the prediction"),
            (self.retention.link is None, "retention: a non-linear link stands between memory and weights"),
            (self.retention.project is None, "retention: projects after every token"),
            (self._advance is None, "retention: a step is not added to the memory"),
            (self.retention.axis != "row", "retention: a decay per row would need a solve for every row"),
            (
                self.retention.axis != "column" or not self.algorithm.has_momentum,
                "retention and algorithm: no exact op for momentum with a decay per column",
            ),
            (self.algorithm.step_map is None, "algorithm: maps the step"),
            (not self._beside, BESIDE),
        ):
            if not holds:
                return Refused(reason)
        (layer,) = self.structure.layers
        momentum = f"momentum.{layer}" if self.algorithm.has_momentum else None
        # Further inputs would come narrow as well, and here a rate is computed of the key.
        plain = set(self.inputs) == {"q", "k", "v"} and self._along is None
        if self.retention.axis == "column":
            return Affine(self._column_coefficients, memory=f"memory.{layer}", op="affine_column", hands_on=plain)
        return Affine(self._coefficients, memory=f"memory.{layer}", momentum=momentum, hands_on=plain)

    def _coefficients(self, params: Params, tokens: Tokens) -> AffineTokens:
        """u = write (r v - p M k) - erase M k, with M the kept memory where the algorithm says so. Spec Eq. 6."""
        keep, erase, write, rates = self._erase_and_write(tokens)
        if self._along is not None:
            erase = self._directed(tokens, keep, erase)
        elif erase is not None and self.algorithm.at == "kept":
            erase = keep * erase
        return AffineTokens(tokens.q, tokens.k, tokens.v, keep, erase, write, rates.momentum, rates.inject)

    def _column_coefficients(self, params: Params, tokens: Tokens) -> ColumnTokens:
        """The same with one keep and one erase per key channel; without momentum an inject is part of both rates."""
        keep, erase, write, rates = self._erase_and_write(tokens)
        if rates.inject is not None:
            write = rates.inject * write
            erase = None if erase is None else rates.inject * erase
        if self._along is not None:
            erase = self._directed(tokens, keep, erase)
        elif erase is not None:
            erase = erase.unsqueeze(-1) * (keep if self.algorithm.at == "kept" else torch.ones_like(keep))
        return ColumnTokens(tokens.q, tokens.k, tokens.v, keep, erase, write)

    def _directed(self, tokens: Tokens, keep: Tensor, erase: Tensor | None) -> Tensor:
        """All that is taken out of the old memory along the key, as wide as keep: by the retention and by the error.

        At the kept memory the error is that of what is left of it. Spec: specs/knobs/directional.md, Eq. 5.
        """
        assert self._along is not None
        shape = keep.shape
        rate = share_along(self._along(tokens), tokens.k)
        gone = _as_wide(rate * tokens.k.square().sum(-1), shape)
        left = keep - gone if self.algorithm.at == "kept" else 1.0
        own = _as_wide(rate, shape).expand(shape)
        return own if erase is None else own + _as_wide(erase, shape) * left

    def _erase_and_write(self, tokens: Tokens) -> tuple[Tensor, Tensor | None, Tensor, Rates]:
        """keep, the erase rate at the memory that the algorithm sees, the write rate, and the rates themselves."""
        assert self.bias.affine is not None
        predicted, target = self.bias.affine
        keep, rates = self.retention.keep(tokens), self.algorithm.rates(tokens)
        erase = rates.erase
        if predicted:
            erase = predicted * rates.write if erase is None else predicted * rates.write + erase
        return keep, erase, rates.write if target == 1.0 else target * rates.write, rates

    def _linearised(self) -> Linearised | Refused:
        if self._beside:
            return Refused(BESIDE)
        if self._advance is not None:
            return Refused("retention: a step is not added to the memory, so frozen steps cannot be summed")
        if self.algorithm.step_map is not None and not (
            self.algorithm.has_momentum and self.retention.axis == "scalar"
        ):
            return Refused("algorithm: maps the step; frozen forms that of a momentum under one decay per token")
        free = self.structure.linear and self.bias.affine is not None and self.bias.affine[0] == 0.0
        runs = not (self.algorithm.erases and self.algorithm.at == "kept" and self.retention.axis == "row")
        return Linearised(
            self._factors,
            self._read,
            memory="memory",
            momentum="momentum" if self.algorithm.has_momentum else None,
            axis=self.retention.axis,
            link=self.retention.link,
            project=self.retention.project,
            step_map=self.algorithm.step_map,
            exact=free and self.retention.project is None and runs,
            pace=self._pace,
            span=self._span,
        )

    def _spanned(self, given: int | None) -> int | None:
        """How many tokens may take their errors at one memory; None where steps do not follow what it answers."""
        steep = steepness(self.bias)
        if self.retention.domain != "real" or self.algorithm.step_map is not None:
            return None
        if self.structure.linear and not steep:
            return None
        if given is not None or not self.structure.linear:
            return NETWORK_SPAN if given is None else given
        fixed = getattr(self.algorithm, "rate", None)
        return 1 if fixed is None else max(1, int(1.0 / (steep * fixed)))

    def _pace(self, tokens: Tokens) -> Pace:
        rates = self.algorithm.rates(tokens)
        return Pace(self.retention.keep(tokens), rates.momentum, rates.inject)


BESIDE = "retention: erases along the input beside a momentum, an inject or a mapped step; no chunk form has both"


def _as_wide(rate: Tensor, shape: Sequence[int]) -> Tensor:
    """A rate per token against one that may be per channel."""
    return rate if rate.dim() == len(shape) else rate.unsqueeze(-1)


def _decayed(keep: Tensor, stored: Tensor, axis: str) -> Tensor:
    """`keep` is `[B, H, 1]` for a scalar, `[B, H, 1, K]` per column, `[B, H, 1, V]` per row."""
    if axis == "scalar":
        return keep.unsqueeze(-1) * stored
    return keep * stored if axis == "column" else keep.mT * stored


def _union_of_gates(name: str, *knobs: Any) -> dict[str, Gate]:
    gates: dict[str, Gate] = {}
    for knob in knobs:
        for gate, described in knob.gates.items():
            if gate in gates:
                raise CompositionError(
                    f'{name}: two components declare the gate "{gate}"; one of them must rename or drop it'
                )
            gates[gate] = described
    return gates
