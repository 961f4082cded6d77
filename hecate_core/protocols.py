"""What Hecate is made of: rules and their four knobs, strategies, compositions.

A rule writes, a retention forgets, a composition reads, a strategy spreads the work over time. All are
pure functions of immutable records (`hecate_core.records`); none knows chunks, devices or levels that
are not its business. Width letters: K keys, V values, M slots, F hidden features.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import attrs

from hecate_core.forms import Affine, Linearised, Refused, Sequenced
from hecate_core.gates import Gate
from hecate_core.records import Params, State, Tokens
from hecate_core.shapes import Bool, Float, Tensor
from hecate_core.weights import Weights

Widths = Mapping[str, int]
"""The size behind each width letter, "H" (heads) included: `{"H": 4, "K": 64, "V": 64}`."""

Trace = Mapping[str, tuple[Tensor, Tensor]]
"""Per weight its input and its output for every token, `[B, H, T, width]` each."""

FormT = TypeVar("FormT", Affine, Linearised, Sequenced)


@attrs.frozen
class Param:
    """One outer parameter of a rule: its axes in width letters ("H V K"), a start, whether it learns.

    `start` is "zeros", "ones", or a float: the scale of normal noise divided by the root of the last axis.
    """

    axes: str
    start: str | float = "zeros"
    learned: bool = True


class Structure(Protocol):
    """What a memory is: named weights and how a key passes through them.

    `layers` maps each weight to its (rows, columns) in width letters. `linear` promises that the prediction
    is one weight applied to k. `params` are the first weights and further outer parameters (norms). A structure
    with a width of its own says what it follows from in `widths`: `{"F": (4, "K")}`, and one whose weights cannot be
    any number where they live in `domain` (see `Retention`). One whose answer does not grow with its weights says
    `normalised = True`. `predict`, where there is one, gives the prediction
    of `trace` without what only a pullback needs.
    """

    layers: Mapping[str, tuple[str, str]]
    linear: bool
    params: Mapping[str, Param]

    def trace(self, params: Params, weights: Weights, x: Float[Tensor, "B H T K"]) -> tuple[Tensor, Trace]:
        """The prediction `[B, H, T, V]`, and every weight's input and output on the way there."""
        ...

    def pullback(self, params: Params, weights: Weights, trace: Trace, d: Tensor) -> Mapping[str, Tensor]:
        """From a cotangent d of the prediction, the cotangent of every weight's output. Analytical, no autograd."""
        ...


class AttentionalBias(Protocol):
    """The inner loss, as its derivative by the prediction.

    `affine` is (p, r) when the cotangent is `p * prediction - r * v`, None when it is no such thing. A loss without
    a smallest value says `bounded = False`.
    """

    gates: Mapping[str, Gate]
    affine: tuple[float, float] | None

    def cotangent(self, prediction: Tensor, v: Tensor, tokens: Tokens) -> Float[Tensor, "B H T V"]:
        """dL/dprediction for every token."""
        ...


class Retention(Protocol):
    """How a memory forgets: what multiplies the stored memory, and how weights follow from it.

    `axis` is "scalar", "column" or "row". `link` (stored -> weights) does not feed back, `inverse` finds what to store
    for given first weights (None: they are what is stored); `project` feeds back after every token. `domain` names
    where weights live ("real", "simplex", ...). Optional: `decays` (default: whether there are gates), `advance`,
    a map (kept memory, step) -> memory for a step that is not added, and `erase(tokens)`, a rate `[B, H, T]` at which
    every weight forgets along its own input as well (specs/knobs/directional.md).
    """

    gates: Mapping[str, Gate]
    axis: str
    domain: str
    link: Callable[[Tensor], Tensor] | None
    inverse: Callable[[Tensor], Tensor] | None
    project: Callable[[Tensor], Tensor] | None

    def keep(self, tokens: Tokens) -> Tensor:
        """The used decay per token, `[B, H, T]` or per channel of `axis`."""
        ...


class Rates(NamedTuple):
    """What an algorithm makes of the gates: inner step size, extra erase, momentum, inject; `[B, H, T]` or None."""

    write: Tensor
    erase: Tensor | None = None
    momentum: Tensor | None = None
    inject: Tensor | None = None


class Algorithm(Protocol):
    """How the inner gradient becomes a step.

    `at` is "raw" (error of the old memory) or "kept" (error of what the decay leaves of it). `erases` says that
    its rates have an erase of their own (DGD), `decays` (optional) that it forgets as well. `step_map`,
    where not None, maps the momentum of a weight to the step taken (Newton-Schulz).
    """

    gates: Mapping[str, Gate]
    at: str
    has_momentum: bool
    erases: bool
    step_map: Callable[[Tensor], Tensor] | None

    def rates(self, tokens: Tokens) -> Rates:
        """The used rates per token."""
        ...


@runtime_checkable
class MemoryRule(Protocol):
    """A memory that learns one token at a time; `step` is its meaning, every faster form must equal it.

    `inputs` maps each per-token input to its width letter; `gates` and `params` say what else it wants. `spec`
    is the path of its specification inside its distribution. Optional: `mixes` names inputs beside q, k and v that
    pass the front's convolution and activation, `unscaled` those of q and k that it must not bring to length 1.
    """

    name: str
    spec: str
    inputs: Mapping[str, str]
    gates: Mapping[str, Gate]
    params: Mapping[str, Param]

    def init_state(self, params: Params, batch: int) -> State:
        """The state before the first token, one row per batch entry."""
        ...

    def step(self, params: Params, state: State, token: Tokens) -> tuple[Float[Tensor, "B H V"], State]:
        """One token (no T axis): the read after its write, and the new state."""
        ...

    def read(self, params: Params, state: State, q: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """What the memory answers; writes nothing."""
        ...

    def offers(self, form: type[FormT]) -> FormT | Refused:
        """The form, or the reason why there is none."""
        ...


class Strategy(Protocol):
    """Spreads a rule's work over the tokens of a call.

    `needs` is the form asked of the rule (None: `step` alone). `exact` promises the result of `sequential` to rounding.
    Optional: `around(rule)` gives the rule as layers are to see it, where a strategy has more outer parameters than the
    rule or reads another way than `rule.read`; it raises CompositionError for a rule that cannot be served. `inherits`
    promises the result of `sequential` where the form itself is exact. What concerns its clocks, all of it optional and
    in tokens that a level writes: `anchors` (int), from one memory at which inner gradients are taken to the next;
    `detach`, whether outer gradients end there; `late(param)`, on whose next multiple what is written is read (0: at
    once), by the name of a parameter or None for all; `borders`, multiples at which a read may change though nothing
    is written; `restarts`, after how many a named part of the state begins anew. Laws: specs/protocols.md. `summed` (1)
    is the most steps that are added up along errors of one memory: write gates end earlier for it.
    """

    name: str
    needs: type[Affine] | type[Linearised] | None
    exact: bool

    def init_state(self, rule: MemoryRule, params: Params, batch: int) -> State:
        """The rule's first state and whatever else this strategy must carry."""
        ...

    def __call__(
        self,
        rule: MemoryRule,
        params: Params,
        tokens: Tokens,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """Reads after each write, and the state after the last token; tokens where `write` is False change nothing."""
        ...


class Memory(Protocol):
    """All that a composition sees of a memory: two verbs on activations."""

    def recall(self, x: Float[Tensor, "B T D"], state: State) -> tuple[Float[Tensor, "B T D"], State]:
        """Reads only; the state that comes back differs in the reading front's tail alone."""
        ...

    def absorb(
        self, x: Float[Tensor, "B T D"], state: State, write: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Writes token by token and reads after each write."""
        ...


class Attention(Protocol):
    """All that a composition sees of attention."""

    def __call__(self, x: Float[Tensor, "B T D"], state: State | None) -> tuple[Float[Tensor, "B T D"], State]:
        """Causal attention over the rows so far, and its new state; None begins a new context."""
        ...


class Composition(Protocol):
    """How a block joins memory and attention; an nn.Module made with `width`.

    `attends` and `remembers` say which of the two it wants made, `recalls` whether it reads without writing. The
    state it gets and returns holds `memory` and `attention` where it wants them, and whatever it adds itself in
    `init_state(parts)`, which gets the first state of both. Optional: a keyword `window` of the constructor is given
    the attention window in tokens; `rows` (1) says how many rows it shows attention for every token; `late` (0) that it
    looks at what was written at multiples of so many tokens alone; `causal = False` marks a wiring that is made for
    study and cannot promise causality.
    """

    attends: bool
    remembers: bool
    recalls: bool

    def __call__(
        self,
        x: Float[Tensor, "B T D"],
        memory: Memory,
        attention: Attention,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """One causal pass: the output for token t depends on tokens up to t."""
        ...
