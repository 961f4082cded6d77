"""Documents inside a row: a rule that begins anew at marked tokens, under every strategy that can do so exactly.

The marks travel in the tokens, so a strategy cuts them as it cuts everything else. Where a rule is affine a
start is a coefficient: keep, erase and momentum of 0 leave nothing of the past (specs/levels.md, Eq. 6).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from hecate_core.errors import InputError
from hecate_core.forms import Affine, Factors, Linearised, Pace, Refused, Sequenced
from hecate_core.gates import Gate
from hecate_core.protocols import FormT, MemoryRule, Param
from hecate_core.records import Params, State, Tokens, where_rows
from hecate_core.shapes import Bool, Float, Tensor

STARTS, WRITES = "document_starts", "document_writes"


class Restarting:
    """The rule, but a token marked in `document_starts` `[B, H, T]` sees a fresh memory, whether it writes or not.

    `document_writes` is the write mask, which must not undo a start: give it here and not to the strategy. `given`
    names outer parameters that a caller set: a first memory that is not 0 cannot be reached by wiping.
    """

    def __init__(self, rule: MemoryRule, given: Mapping[str, object] | None = None) -> None:
        self._rule = rule
        self.name, self.spec = rule.name, rule.spec
        self.inputs: Mapping[str, str] = rule.inputs
        self.gates: Mapping[str, Gate] = rule.gates
        self.params: Mapping[str, Param] = rule.params
        self.widths: Mapping[str, tuple[float, str]] = getattr(rule, "widths", {})
        zero = all(one.start == "zeros" and not one.learned for one in rule.params.values())
        self._from_zero = zero and not given

    def init_state(self, params: Params, batch: int) -> State:
        """The rule's own."""
        return self._rule.init_state(params, batch)

    def step(self, params: Params, state: State, token: Tokens) -> tuple[Float[Tensor, "B H V"], State]:
        """Rows that start take the first state, then the rule's step; rows that do not write only read."""
        starts, writes = token[STARTS][:, 0], token[WRITES][:, 0]
        fresh = self._rule.init_state(params, starts.shape[0])
        state = where_rows(starts, fresh.replace(position=state.position), state)
        y, after = self._rule.step(params, state, token.without(STARTS, WRITES))
        resting = self._rule.read(params, state, token.q.unsqueeze(2)).squeeze(2)
        return (
            torch.where(writes.view(-1, 1, 1), y, resting),
            where_rows(writes, after, state.replace(position=after.position)),
        )

    def read(self, params: Params, state: State, q: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """The rule's own."""
        return self._rule.read(params, state, q)

    def offers(self, form: type[FormT]) -> FormT | Refused:
        """The rule's form with starts in its coefficients, or why a start inside a call would not be exact."""
        offered: Any = self._rule.offers(form)
        return offered if isinstance(offered, Refused) else self._anew(offered)

    def _anew(self, offered: Affine | Linearised | Sequenced) -> Any:
        if isinstance(offered, Sequenced):
            return Refused("document starts: the op of the rule's own step takes no starts")
        if not self._from_zero:
            return Refused("document starts: the first memory is not 0, and wiping leaves 0")
        if offered.gather is not None:
            return Refused("document starts: tokens look back at earlier ones, over the start")
        if isinstance(offered, Affine):
            return self._affine(offered)
        if not offered.exact:
            return Refused("document starts: gradients are taken at the memory that a chunk began with")
        return self._linearised(offered)

    def _affine(self, form: Affine) -> Affine:
        def coefficients(params: Params, tokens: Tokens) -> Any:
            made: Any = form.coefficients(params, tokens.without(STARTS, WRITES))
            return made.masked(tokens[WRITES]).restarted(tokens[STARTS])

        return replace(form, coefficients=coefficients)

    def _linearised(self, form: Linearised) -> Linearised:
        def factors(params: Params, anchor: State, tokens: Tokens) -> Factors:
            made = form.factors(params, anchor, tokens.without(STARTS, WRITES))
            keep, momentum, inject = _paced(Pace(made.keep, made.momentum, made.inject), tokens)
            writes = tokens[WRITES].unsqueeze(-1)
            updates = {name: (torch.where(writes, u, 0.0), x) for name, (u, x) in made.updates.items()}
            erases = writes & ~tokens[STARTS].unsqueeze(
                -1
            )  # nothing is left that could be erased where a document starts
            erase = made.erase and {name: torch.where(erases, e, 0.0) for name, e in made.erase.items()}
            return Factors(keep, updates, momentum, inject, erase)

        def pace(tokens: Tokens) -> Pace:
            assert form.pace is not None
            return _paced(form.pace(tokens.without(STARTS, WRITES)), tokens)

        return replace(form, factors=factors, pace=None if form.pace is None else pace)


def _paced(pace: Pace, tokens: Tokens) -> Pace:
    """Neutral where nothing is written, then nothing kept where a document starts."""
    starts, writes = tokens[STARTS], tokens[WRITES]
    keep, momentum, inject = pace
    if keep.dim() == 4:
        keep = keep.where(writes.unsqueeze(-1), 1.0).masked_fill(starts.unsqueeze(-1), 0.0)
    else:
        keep = keep.where(writes, 1.0).masked_fill(starts, 0.0)
    if momentum is not None:
        inject = (torch.ones_like(momentum) if inject is None else inject).where(writes, 0.0)
        momentum = momentum.where(writes, 1.0).masked_fill(starts, 0.0)
    return Pace(keep, momentum, inject)


def restarting(
    rule: MemoryRule,
    tokens: Tokens,
    starts: Bool[Tensor, "B T"],
    write: Bool[Tensor, "B T"] | None,
    given: Mapping[str, object] | None = None,
) -> tuple[MemoryRule, Tokens]:
    """The rule and the tokens to hand to a strategy, without a write mask, so that marked tokens start anew.

    Raises InputError for marks of another shape or type than bool `[B, T]`.
    """
    shape = (tokens.q.shape[0], tokens.q.shape[2])
    if starts.dtype != torch.bool or starts.shape != shape:
        raise InputError(f"starts is {starts.dtype} {list(starts.shape)}; expected bool [B, T] = {list(shape)}")
    writes = torch.ones_like(starts) if write is None else write
    wide = {STARTS: starts, WRITES: writes}
    heads = tokens.q.shape[1]
    marks = {name: one.unsqueeze(1).expand(-1, heads, -1) for name, one in wide.items()}
    return Restarting(rule, given), tokens.replace(**marks)


def resting(tokens: Tokens) -> Tokens:
    """The same tokens, none of which writes; starts stay."""
    return tokens.replace(**{WRITES: torch.zeros_like(tokens[WRITES])})
