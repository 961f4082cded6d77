"""The meaning: one `step` per token. Every other strategy is measured against it."""

from typing import Any

import torch

from hecate_core.errors import CompositionError
from hecate_core.forms import Refused, Sequenced
from hecate_core.protocols import MemoryRule
from hecate_core.records import Params, State, Tokens, where_rows
from hecate_core.shapes import Bool, Float, Tensor


class Sequential:
    """Token by token through `rule.step`; always valid, slow, the only one that decoding needs.

    With `pair`, an implementation of the op that the rule offers as `Sequenced`, all tokens of a call are one op with
    an analytical backward: the same steps, taken by the op. Without it, or where the rule refuses that form, autograd
    goes through the loop.
    """

    name = "sequential"
    needs = None
    prefers = Sequenced
    exact = True

    def __init__(self, *, pair: Any = None) -> None:
        self.pair = pair

    def init_state(self, rule: MemoryRule, params: Params, batch: int) -> State:
        """The rule's own first state."""
        return rule.init_state(params, batch)

    def __call__(
        self,
        rule: MemoryRule,
        params: Params,
        tokens: Tokens,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """See `Strategy`. A masked token reads the memory as it stands."""
        reads = []
        count = tokens.q.shape[2]
        if self.pair is not None and count:
            form: object = rule.offers(Sequenced)
            op = form.op if isinstance(form, Sequenced) else None
            if isinstance(form, Sequenced) and op == self.pair.op:
                return form.run(self.pair, params, state, tokens, write)
            if not isinstance(form, Refused):  # refused for this call, as with document starts: steps serve it
                raise CompositionError(f'rule "{rule.name}" has the op {op}; the pair given is for "{self.pair.op}"')
        for t in range(count):
            token = tokens.map(lambda one, t=t: one[:, :, t])  # type: ignore[misc]
            y, after = rule.step(params, state, token)
            if write is not None:
                due = write[:, t]
                resting = rule.read(params, state, token.q.unsqueeze(2)).squeeze(2)
                y = torch.where(due.view(-1, 1, 1), y, resting)
                after = where_rows(due, after, state.replace(position=after.position))
            reads.append(y)
            state = after
        if not reads:
            return rule.read(params, state, tokens.q), state
        return torch.stack(reads, 2), state
