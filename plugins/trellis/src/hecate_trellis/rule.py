"""Trellis: keys and values compressed into slots, both towards one code, read through both.

Spec: specs/rules/trellis.md, Eq. 1 to 4. Limit: with phi = f = identity both passes are error-first gated delta rules.
"""

from collections.abc import Collection, Mapping
from typing import Any

from hecate_core.api import (
    RETAIN,
    WRITE,
    Affine,
    CompositionError,
    Factors,
    Float,
    Gate,
    Linearised,
    Pace,
    Param,
    Params,
    Refused,
    Sequenced,
    State,
    Tensor,
    Tokens,
    Weights,
    nearest,
    outer,
    scaled,
    sequence,
    times,
    times_transposed,
)
from hecate_trellis.maps import MAPS, SlotMap
from hecate_trellis.op import TrellisTokens, option_of

STARTS = ("noise", "zeros")
# A value has any length: the plain step is stable only where write |v|^2 stays well below 1 (spec, Stability).
RATES = {"normalised": WRITE.narrowed(high=0.3, init=0.1), "plain": WRITE.narrowed(high=0.01, init=0.005)}

# The identity does not saturate: a key that comes back is erased once per token of a chunk of 16 (spec, Stability).
LINEAR = {"high": 0.1, "init": 0.05}


class Trellis:
    """Two slot matrices under one code: S <- retain S - write u w^T with w = k, then w = v; y = out(SV^T f(SK q)).

    `phi` is the map in the write's loss, `f` that of the slots that are read, `out` "phi" or "identity". `start` is
    "noise" (learned) or "zeros". `rate` is the step of the pass over values: "normalised" divides it by max(1, |v|^2).
    State: `memory.keys_to_slots` `[B, H, M, K]` and `memory.slots_to_values` `[B, H, V, M]`, the transpose of SV.
    Source: [2512.23852] Eq. 5-14.
    """

    name = "trellis"
    spec = "rules/trellis.md"
    inputs: Mapping[str, str] = {"q": "K", "k": "K", "v": "V", "code": "M"}
    widths: Mapping[str, tuple[float, str]] = {"M": (1, "K")}

    def __init__(
        self,
        *,
        phi: str = "silu",
        f: str = "ln-silu",
        out: str = "phi",
        start: str = "noise",
        rate: str = "normalised",
    ) -> None:
        self._phi, self._f, self._name_of_phi = _map("phi", phi), _map("f", f), phi
        for option, given, known in (
            ("out", out, ("phi", "identity")),
            ("start", start, STARTS),
            ("rate", rate, RATES),
        ):
            if given not in known:
                raise CompositionError(f'trellis: {option} = "{given}"{nearest(given, known)}')
        if start == "zeros" and self._phi.whole:
            raise CompositionError(
                f'trellis: phi = "{phi}" is singular at the start "zeros"; choose start = "noise" or phi = "silu"'
            )
        self._out = self._phi if out == "phi" else MAPS["identity"]
        write = RATES[rate].narrowed(**LINEAR) if phi == "identity" and rate == "normalised" else RATES[rate]
        self.gates: Mapping[str, Gate] = {"retain": RETAIN, "write": write}
        self._span = 16 if phi == "identity" else 8  # tokens of a chunk for which these ranges were measured
        self._normalised = rate == "normalised"
        first: Any = {"start": 1.0} if start == "noise" else {"start": "zeros", "learned": False}
        self.params: Mapping[str, Param] = {
            "keys_to_slots": Param("H M K", **first),
            "slots_to_values": Param("H V M", **first),
        }

    def init_state(self, params: Params, batch: int) -> State:
        """Both starting matrices for every row."""
        return State(memory=State.of({name: params[name].expand(batch, *params[name].shape) for name in self.params}))

    def step(self, params: Params, state: State, token: Tokens) -> tuple[Float[Tensor, "B H V"], State]:
        """Write one token into both matrices, then read it: Eq. 1 to 4."""
        sk, sv = state.memory.keys_to_slots, state.memory.slots_to_values.mT
        key_error = self._error(times(sk, token.k), token.code)
        value_error = self._error(times(sv, token.v), token.code)
        sk = scaled(token.retain, sk) - scaled(token.write, outer(key_error, token.k))
        sv = scaled(token.retain, sv) - scaled(self._value_rate(token), outer(value_error, token.v))
        y = self._out.value(times_transposed(sv, self._f.value(times(sk, token.q))))
        memory = State(keys_to_slots=sk, slots_to_values=sv.mT)
        return y, state.replace(memory=memory, position=state.position + 1)

    def read(self, params: Params, state: State, q: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """out(SV^T f(SK q))."""
        slots = self._f.value(q @ state.memory.keys_to_slots.mT)
        return self._out.value(slots @ state.memory.slots_to_values.mT)

    def offers(self, form: type) -> Any:
        """Its step as two calls of the op `trellis`; `Linearised` at an anchor; no `Affine`, for the reason given."""
        if form is Sequenced:
            return Sequenced("trellis", self._sequence)
        if form is not Affine:
            return Linearised(self._factors, self._read, memory="memory", pace=_pace, span=self._span)
        if self._phi is not MAPS["identity"]:
            return Refused("bias: the map phi makes the error non-linear in the memory")
        return Refused("structure: two recurrences, the second read through its transpose with what the first answers")

    def _error(self, z: Float[Tensor, "... M"], code: Float[Tensor, "... M"]) -> Float[Tensor, "... M"]:
        """Gradient of 1/2 |phi(z) - code|^2 by z: J_phi(z)^T (phi(z) - code)."""
        return self._phi.pullback(z, self._phi.value(z) - code)

    def _value_rate(self, tokens: Tokens) -> Tensor:
        """The step of the second pass, whose "key" is a value: no longer than a unit vector, if normalised."""
        write: Tensor = tokens.write
        return write / tokens.v.square().sum(-1).clamp(min=1.0) if self._normalised else write

    def _sequence(
        self, pair: Any, params: Params, state: State, tokens: Tokens, write: Tensor | None
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """All tokens of a call: the pass over keys, then the pass over values, which does not feed back into it."""
        due = None if write is None else write.unsqueeze(1).expand_as(tokens.write)
        memory, shared = state.memory, (tokens.code, tokens.retain)
        keys = TrellisTokens(tokens.q, tokens.k, *shared, tokens.write, due)
        slots, sk = sequence(pair, keys, memory.keys_to_slots, option_of(self._name_of_phi, "slots"))
        values = TrellisTokens(self._f.value(slots), tokens.v, *shared, self._value_rate(tokens), due)
        read, sv = sequence(pair, values, memory.slots_to_values.mT, option_of(self._name_of_phi, "entries"))
        after = State(keys_to_slots=sk, slots_to_values=sv.mT)
        return self._out.value(read), state.replace(memory=after, position=state.position + tokens.q.shape[2])

    def _factors(self, params: Params, anchor: State, tokens: Tokens) -> Factors:
        """Both writes with their errors at the anchor, which makes the rest linear."""
        write, value_rate = tokens.write.unsqueeze(-1), self._value_rate(tokens).unsqueeze(-1)
        key_error = self._error(tokens.k @ anchor.keys_to_slots.mT, tokens.code)
        value_error = self._error(tokens.v @ anchor.slots_to_values, tokens.code)
        updates = {
            "keys_to_slots": (-write * key_error, tokens.k),
            "slots_to_values": (tokens.v, -value_rate * value_error),  # transposed: reads go from slots to values
        }
        return Factors(tokens.retain, updates)

    def _read(self, params: Params, weights: Weights, q: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        slots = self._f.value(weights.apply("keys_to_slots", q))
        return self._out.value(weights.apply("slots_to_values", slots))


def _map(option: str, name: str) -> SlotMap:
    _known(option, name, MAPS)
    return MAPS[name]


def _known(option: str, given: str, choices: Collection[str]) -> None:
    if given not in choices:
        raise CompositionError(f'trellis: {option} = "{given}"{nearest(given, choices)}')


def _pace(tokens: Tokens) -> Pace:
    return Pace(tokens.retain)
