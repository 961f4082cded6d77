"""The capability forms that a rule offers to strategies, and the refusal with its reason.

`rule.offers(Affine)` answers with the form or with `Refused(reason)`. A strategy asks for the form it
needs and never for a name. Forms are dataclasses: torch.compile follows their making, that of attrs' it does not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hecate_core.ops.affine import AffineTokens
from hecate_core.ops.affine_column import ColumnTokens
from hecate_core.records import Params, State, Tokens
from hecate_core.shapes import Float, Tensor
from hecate_core.weights import Weights


@dataclass(frozen=True)
class Refused:
    """A form that a rule does not offer, and why, in words made of what its components declare."""

    reason: str


Gather = Callable[[Params, State, Tokens, Tensor | None], tuple[Tokens, State]]
"""(params, state, tokens, write mask `[B, T]` or None) -> tokens with what else they see, and the state after.

For rules whose tokens look back at earlier tokens (a window): called once per call, before a strategy cuts it. What
it adds to the tokens has the T axis where the inputs have it. Tokens that may not write are not to be seen later.
"""


@dataclass(frozen=True)
class Affine:
    """The memory after a token is affine in the memory before it: an exact chunk form exists.

    `coefficients(params, tokens)` gives the recurrence of the op `op` from the tokens alone: `AffineTokens` for
    "affine", `ColumnTokens` for "affine_column". `memory` and `momentum` name where the two matrices live in the
    rule's state, by dotted path; a momentum in the coefficients that nobody carries starts at 0 in every call. `group`
    coefficients in a row stand for one token, whose read is that of the last. `gather` is asked first. `hands_on` says
    that q, k and v go to the op as they are and that nothing is computed of them: kernels may then read them narrow.
    """

    coefficients: Callable[[Params, Tokens], AffineTokens | ColumnTokens]
    memory: str
    momentum: str | None = None
    op: str = "affine"
    group: int = 1
    gather: Gather | None = None
    hands_on: bool = False


class Factors(NamedTuple):
    """One token's change of every weight, linear in what is stored: A_t = keep A + inject S, S = momentum S + u x^T.

    `updates` maps a weight to (u `[B, H, T, V]`, x `[B, H, T, K]`). `keep` is `[B, H, T]`, or per channel along `axis`.
    `erase` maps the weights that forget along an input to the vector e that is read of the stored weight and taken
    back: with u - A e for u. There A is the weight that runs, never the anchor, so the change stays linear in it.
    """

    keep: Tensor
    updates: Mapping[str, tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H T K"]]]
    momentum: Float[Tensor, "B H T"] | None = None
    inject: Float[Tensor, "B H T"] | None = None
    erase: Mapping[str, Float[Tensor, "B H T K"]] | None = None

    def moves(self, stored: Mapping[str, Float[Tensor, "B H V K"]]) -> dict[str, Float[Tensor, "B H V K"]]:
        """u x^T of every weight for a single token (T = 1), the erase of what is stored included."""
        erase = self.erase or {}
        return {
            name: (u - erase[name] @ stored[name].mT if name in erase else u).mT @ x
            for name, (u, x) in self.updates.items()
        }


class Pace(NamedTuple):
    """How a rule forgets and accumulates, from the tokens alone: the decays of `Factors` without its updates."""

    keep: Tensor
    momentum: Float[Tensor, "B H T"] | None = None
    inject: Float[Tensor, "B H T"] | None = None


@dataclass(frozen=True)
class Linearised:
    """The rule's change of memory with its gradient taken at an anchor instead of the last memory.

    `factors(params, anchor, tokens)`: rank-one changes with every inner gradient at `anchor`, a record of
    the stored weights. `read(params, weights, q)` reads through whatever weights the strategy puts behind.
    `memory` and `momentum` name the records of weights in the rule's state. `axis` says what `keep` multiplies:
    "scalar", "column" or "row". `link` maps what is stored to weights (None: they are the same);
    one with an attribute `op` has `on(pair)` as a step map does, and `read(reads, stored, decays)`: y_t = link(A_t) q_t
    of what the op `decayed_linear` is given, without keeping an A_t. `project` maps the stored weights back to their
    domain, for every read and at chunk ends. `exact` is True where no factor depends on the anchor. `step_map` stands
    between momentum and memory, A_t = keep A + inject step_map(S_t), and needs a momentum and a scalar `keep`; one
    with an attribute `op` has `on(pair)`, the same map by an implementation of that op. `group` changes in a row stand
    for one token, whose read is that of the last; with a `step_map` only the last may have an `inject`. `gather` is
    asked first. `pace(tokens)`, where a rule can give it, is the decays of `factors` without an anchor: a strategy then
    prepares all chunks of a call at once. `asks(params, weights, q)`, where the rule makes its queries, makes that of a
    token by the weights that the token meets, before its own update; `read` is given the result. `renewed` says how
    many chunks the anchor of a stored weight serves (None, and a name that it lacks: one). `span` is how many tokens
    may take their errors at one anchor while every value in the rule's declared gate ranges stays stable
    (specs/forms/linearised.md, Eq. 14; None: any number, or the rule does not know).
    """

    factors: Callable[[Params, State, Tokens], Factors]
    read: Callable[[Params, Weights, Tensor], Float[Tensor, "B H T V"]]
    memory: str
    momentum: str | None = None
    axis: str = "scalar"
    link: Callable[[Tensor], Tensor] | None = None
    project: Callable[[Tensor], Tensor] | None = None
    exact: bool = False
    pace: Callable[[Tokens], Pace] | None = None
    step_map: Callable[[Tensor], Tensor] | None = None
    group: int = 1
    gather: Gather | None = None
    renewed: Mapping[str, int] | None = None
    span: int | None = None
    asks: Callable[[Params, Weights, Tensor], Float[Tensor, "B H T K"]] | None = None

    @property
    def grows_by_op(self) -> bool:
        """Whether the op `decayed_linear` carries the weights; else those of every token are formed."""
        return self.axis == "scalar" and self.step_map is None

    @property
    def without_op(self) -> str | None:
        """What of it no op does, so that no kernel can, in words; None where ops do the work."""
        if self.axis != "scalar":
            return f"a decay per {self.axis}"
        if self.project is not None:
            return "a projection of what is stored"
        for name, part in (("link", self.link), ("step map", self.step_map)):
            if part is not None and getattr(part, "op", None) is None:
                return f"a {name} that is no op"
        return None


@dataclass(frozen=True)
class Sequenced:
    """The rule's own step over all tokens of a call, as an op with an analytical backward; no other form is wanted.

    `run(pair, params, state, tokens, write)` answers as `Strategy` does: reads after each write and the state after
    the last token; tokens where the mask `write` `[B, T]` is False change nothing. `pair` implements the op `op`.
    """

    op: str
    run: Callable[[Any, Params, State, Tokens, Tensor | None], tuple[Float[Tensor, "B H T V"], State]]


Form = Affine | Linearised | Sequenced
