"""The papers' parallel form: inner gradients at the memory that each chunk began with.

What remains is linear and is read without ever forming a memory per token:
A_t = b_t A_0 + g_t S_0 + sum over i <= t of reach_ti u_i x_i^T (specs/forms/linearised.md).
Chunks lie on an absolute grid and the anchor is state, so however a text is cut the result is the same.
"""

import torch

from hecate_core.errors import CompositionError, InputError
from hecate_core.forms import Factors, Linearised, Refused
from hecate_core.ops.affine import NEUTRAL
from hecate_core.protocols import MemoryRule
from hecate_core.records import Params, State, Tokens
from hecate_core.shapes import Bool, Float, Tensor
from hecate_core.strategies.grown import Grown
from hecate_core.weights import PerToken, Weights


class Frozen:
    """Gradients frozen at the start of each chunk; exact for chunk 1, second order in the rate beyond.

    `chunk` (tokens, >= 1) is part of the model: another chunk is another function. `detach` stops the outer
    gradient at the anchor, a different, first-order algorithm. Source: [2501.00663] Eq. 16-18; [2504.13173] Eq. 28.
    """

    name = "frozen"
    needs = Linearised
    exact = False

    def __init__(self, *, chunk: int = 16, detach: bool = False) -> None:
        if chunk < 1:
            raise InputError(f"frozen: chunk = {chunk}; expected an integer >= 1")
        self.chunk = chunk
        self.detach = detach

    def init_state(self, rule: MemoryRule, params: Params, batch: int) -> State:
        """The rule's first state and the anchor of the first chunk."""
        form = self._form(rule)
        state = rule.init_state(params, batch)
        return state.replace(anchor=state.at(form.memory))

    def __call__(
        self,
        rule: MemoryRule,
        params: Params,
        tokens: Tokens,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """See `Strategy`. Raises CompositionError where the rule has no linearised form."""
        form = self._form(rule)
        count, reads, done = tokens.q.shape[2], [], 0
        while done < count:
            phase = state.position % self.chunk
            if phase == 0:
                state = state.replace(anchor=state.at(form.memory))
            stop = min(count, done + self.chunk - phase)
            piece = tokens.map(lambda one, a=done, b=stop: one[:, :, a:b])  # type: ignore[misc]
            mask = None if write is None else write[:, done:stop]
            y, state = self._piece(form, params, piece, state, mask)
            reads.append(y)
            done = stop
        return (torch.cat(reads, 2) if reads else tokens.v), state

    def _form(self, rule: MemoryRule) -> Linearised:
        form = rule.offers(Linearised)
        if isinstance(form, Refused):
            raise CompositionError(f'rule "{rule.name}" has no linearised form ({form.reason}); use "sequential"')
        return form

    def _piece(
        self, form: Linearised, params: Params, tokens: Tokens, state: State, write: Tensor | None
    ) -> tuple[Tensor, State]:
        anchor = state.anchor.map(torch.Tensor.detach) if self.detach else state.anchor
        factors = form.factors(params, anchor, tokens)
        if write is not None:
            factors = _masked(factors, write.unsqueeze(1))
        momentum = None if form.momentum is None else state.at(form.momentum)
        grown = Grown(state.at(form.memory), momentum, factors, form.axis)
        weights: Weights = grown
        if form.link is not None:
            weights = PerToken({name: form.link(grown.every(name)) for name in factors.updates})
        y = form.read(params, weights, tokens.q)
        memory, momentum = grown.last()
        position = state.position + tokens.q.shape[2]
        if form.project is not None and position % self.chunk == 0:
            memory = memory.map(form.project)
        state = state.put(form.memory, memory)
        if form.momentum is not None:
            state = state.put(form.momentum, momentum)
        return y, state.replace(position=position)


def _masked(factors: Factors, due: Bool[Tensor, "B 1 T"]) -> Factors:
    """Neutral wherever `due` is False: nothing decays, nothing is written, no momentum enters."""
    inject = factors.inject
    if inject is None and factors.momentum is not None:
        inject = torch.ones_like(factors.momentum)
    wide = due if factors.keep.dim() == 3 else due.unsqueeze(-1)
    return Factors(
        keep=torch.where(wide, factors.keep, NEUTRAL["keep"]),
        updates={name: (torch.where(due.unsqueeze(-1), u, 0.0), x) for name, (u, x) in factors.updates.items()},
        momentum=None if factors.momentum is None else torch.where(due, factors.momentum, NEUTRAL["momentum"]),
        inject=None if inject is None else torch.where(due, inject, NEUTRAL["inject"]),
    )
