"""Self-modifying Titans: keys, values, step sizes and decays are read from memories that all learn together.

Spec: specs/rules/self-modifying-titans.md, Eq. 1 to 8. Limit: with fixed projections the memory is Titans under DGD.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from hecate_core.api import (
    MLP,
    MOMENTUM,
    Affine,
    AttentionalBias,
    CompositionError,
    Factors,
    Float,
    Gate,
    Linearised,
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
    registry,
    scaled,
)
from hecate_hope.parts import Part, bounded, unit

RETAIN = Gate(0.5, 0.9999, init=0.98)  # bounded like a gate, though a memory makes it; so is the step size
LASTING = MOMENTUM.narrowed(high=0.9, init=0.8)
MOMENTUM_GAIN = 10.0  # steps under a momentum of 0.9 add up to this, so the largest of them shrinks by it
ERASES = ("first", "layers", "none")
TINY = 1e-12  # an input of nothing has nothing to erase


class SelfModifyingTitans:
    """Memories "key", "value", "write", "retain" (and "query") answer x with what the memory "main" is written with.

    Every one of them takes the same step: M <- M (retain I - write k k^T) - write grad L(M; k, M(v)). `structure` is
    any registered one (None: the paper's z + W_2 gelu(W_1 z)), `bias` the inner loss. `erase` says which weights forget
    along their input: all "layers", the "first" (the one that k meets) or "none". `adapt_q` makes the query by a
    memory, too, as `query` says: "token" of the token, as the others, before its write; the one input is q then, in the
    place of x. "front" of the front's own query, after the write. `momentum` adds that of Titans. `values` are
    "bounded" by |v| <= 1 or "free". Used steps lie in [0, `largest_write`] and start at half of it. All memories but
    "main" renew their anchors every `projection_chunks` chunks of a strategy that has any.
    State: `memory.PART_LAYER` `[B, H, rows, columns]`. Source: [2512.24695] Eq. 83-93.
    """

    name = "self-modifying-titans"
    spec = "rules/self-modifying-titans.md"

    def __init__(
        self,
        *,
        structure: Any = None,
        bias: Any = "l2",
        erase: str = "layers",
        adapt_q: bool = False,
        query: str = "token",
        momentum: bool = False,
        values: str = "bounded",
        largest_write: float = 0.25,
        projection_chunks: int = 1,
    ) -> None:
        for option, given, known in (
            ("erase", erase, ERASES),
            ("values", values, ("bounded", "free")),
            ("query", query, ("token", "front")),
        ):
            if given not in known:
                raise CompositionError(f'{self.name}: {option} = "{given}"{nearest(given, known)}')
        made: Any = MLP(expansion=1.0, residual=True) if structure is None else _component("structure", structure)
        self._structure: Structure = made
        self._bias: AttentionalBias = _component("bias", bias)
        _demand_fitting(self.name, made, self._bias)
        if not 0.0 < largest_write <= 1.0:
            raise CompositionError(f"{self.name}: largest_write = {largest_write}; expected a number in (0, 1]")
        if projection_chunks < 1:
            raise CompositionError(f"{self.name}: projection_chunks = {projection_chunks}; expected an integer >= 1")
        self._projection_chunks = projection_chunks
        largest = largest_write / (MOMENTUM_GAIN if momentum else 1.0)
        self.rates: Mapping[str, Gate] = {"write": Gate(0.0, largest, init=largest / 2), "retain": RETAIN}
        self._erased = _erased(made, erase)
        self._bounded, self._momentum = values == "bounded", momentum
        self._asks = adapt_q and query == "token"  # of the token, which is then the only input, by the name q
        self.inputs: Mapping[str, str] = {"q": "K"} if self._asks else {"q": "K", "x": "K"}
        self.mixes: tuple[str, ...] = () if self._asks else ("x",)
        self.unscaled: tuple[str, ...] = ("q",) if self._asks else ()
        projections = ["key", "value", "write", "retain", *(["query"] if adapt_q else [])]
        self._parts = {name: Part(name, made, square=True) for name in projections}
        self._parts["main"] = Part("main", made)
        self.gates: Mapping[str, Gate] = {**self._bias.gates, **({"momentum": LASTING} if momentum else {})}
        rows = {f"{name}_row": Param("H K", 1.0) for name in self.rates}
        shifts = {f"{name}_shift": Param("H") for name in self.rates}
        declared = [one for part in self._parts.values() for one in part.params.items()]
        self.params: Mapping[str, Param] = {**dict(declared), **rows, **shifts}
        self.widths: Mapping[str, tuple[float, str]] = getattr(made, "widths", {})

    def init_state(self, params: Params, batch: int) -> State:
        """The learned first weights of every memory for every row; momentum starts at 0."""
        start = {name: params[name].expand(batch, *params[name].shape) for name in self._weights()}
        state = State(memory=State.of(start))
        if not self._momentum:
            return state
        return state.replace(momentum=State.of({name: torch.zeros_like(one) for name, one in start.items()}))

    def step(self, params: Params, state: State, token: Tokens) -> tuple[Float[Tensor, "B H V"], State]:
        """Write one token into every memory, then read the main one: Eq. 1 to 8."""
        tokens = token.map(lambda one: one.unsqueeze(2))
        factors = self._factors(params, state.memory, tokens)
        memory, momentum = {}, {}
        for name, move in factors.moves(state.memory).items():
            if factors.momentum is not None:
                move = momentum[name] = scaled(factors.momentum.squeeze(2), state.momentum[name]) + move
            memory[name] = scaled(factors.keep.squeeze(2), state.memory[name]) + move
        new = state.replace(memory=State.of(memory), position=state.position + 1)
        if momentum:
            new = new.replace(momentum=State.of(momentum))
        q = self._asked(params, Shared(state.memory), tokens.q) if self._asks else tokens.q
        return self._read(params, Shared(new.memory), q).squeeze(2), new

    def read(self, params: Params, state: State, q: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """What the main memory answers; where the token makes the query, that of q."""
        weights = Shared(state.memory)
        return self._read(params, weights, self._asked(params, weights, q) if self._asks else q)

    def offers(self, form: type) -> Any:
        """`Linearised` with every memory at its anchor; no `Affine`, for the reason given."""
        if form is Affine:
            return Refused(
                "bias: the value is what the memory itself makes of it, so a step is not affine in the memory"
            )
        momentum = "momentum" if self._momentum else None
        return Linearised(
            self._factors, self._read, memory="memory", momentum=momentum, renewed=self._renewed(),
            asks=self._asked if self._asks else None,
        )  # fmt: skip

    def _renewed(self) -> Mapping[str, int] | None:
        """How many chunks an anchor serves, where that is not one for all."""
        if self._projection_chunks == 1:
            return None
        others = (part for name, part in self._parts.items() if name != "main")
        return {weight: self._projection_chunks for part in others for weight in part.weights}

    def _weights(self) -> Iterator[str]:
        return (name for part in self._parts.values() for name in part.weights)

    def _read(self, params: Params, weights: Weights, q: Tensor) -> Tensor:
        """Eq. 8 of a query that is made, or with `query = "front"` is made here."""
        if "query" in self._parts and not self._asks:
            q = self._asked(params, weights, q)
        return self._parts["main"].answer(params, weights, q)

    def _asked(self, params: Params, weights: Weights, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
        """The query that its memory makes. Eq. 9."""
        return unit(self._parts["query"].answer(params, weights, x))

    def _factors(self, params: Params, anchor: State, tokens: Tokens) -> Factors:
        """Eq. 1 to 7 with every memory at the anchor: keys, values and rates, then one change for each weight."""
        weights = Shared(anchor)
        told = tokens.q if self._asks else tokens.x
        made = {name: part.answer(params, weights, told) for name, part in self._parts.items() if name in _FROM_X}
        k, v = unit(made["key"]), bounded(made["value"]) if self._bounded else made["value"]
        write, retain = (_rate(gate, name, made[name], params) for name, gate in self.rates.items())
        rate, updates, erase = write.unsqueeze(-1), {}, {}
        for part in self._parts.values():
            target = part.answer(params, weights, v)
            prediction, trace = part.trace(params, weights, k)
            pulled = part.pullback(params, weights, trace, self._bias.cotangent(prediction, target, tokens))
            for layer, (x, _) in trace.items():
                updates[part.weight(layer)] = (-rate * pulled[layer], x)
                if layer in self._erased:
                    erase[part.weight(layer)] = _erase(rate, x)
        return Factors(retain, updates, tokens.momentum if self._momentum else None, erase=erase)


_FROM_X = ("key", "value", "write", "retain")


def _erase(write: Float[Tensor, "B H T 1"], z: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
    """The erase rate times its input: `write` where |z| = 1, never more than all that lies along z. Spec Eq. 7."""
    return write * z / (1.0 - write + write * z.square().sum(-1, keepdim=True)).clamp(min=TINY)


def _rate(gate: Gate, name: str, answer: Float[Tensor, "B H T K"], params: Params) -> Float[Tensor, "B H T"]:
    """A memory's answer, reduced by a learned row to one number per head and bounded. Spec Eq. 3 and 4."""
    raw = (answer * params[f"{name}_row"].unsqueeze(-2)).sum(-1) + params[f"{name}_shift"].unsqueeze(-1)
    return gate.used(raw + gate.raw_init())


def _erased(structure: Structure, erase: str) -> frozenset[str]:
    """The weights that forget along their input."""
    if erase == "layers":
        return frozenset(structure.layers)
    meets_the_key = [name for name, (_, columns) in structure.layers.items() if columns == "K"]
    return frozenset(meets_the_key[:1] if erase == "first" else ())


def _demand_fitting(rule: str, structure: Structure, bias: AttentionalBias) -> None:
    """CompositionError where weights cannot take decayed sums, or a loss without a smallest value meets a curve."""
    domain = getattr(structure, "domain", "real")
    if domain != "real":
        raise CompositionError(
            f"{rule}: the structure's weights live on the {domain}, where a decayed sum cannot stay; "
            'choose one of real weights, such as "matrix" or "mlp"'
        )
    if not (getattr(bias, "bounded", True) or structure.linear):
        raise CompositionError(
            f"{rule}: the bias has no smallest loss, and a memory that is not linear in its weights follows its own "
            'answers without end; choose a bounded bias such as "l2", or structure = "matrix"'
        )


def _component(kind: str, given: Any) -> Any:
    """A knob by name or table, or at hand."""
    return registry().create(kind, given) if isinstance(given, (str, Mapping)) else given
