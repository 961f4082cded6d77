"""The meaning: one `step` per token. Every other strategy is measured against it."""

import torch

from hecate_core.protocols import MemoryRule
from hecate_core.records import Params, State, Tokens, where_rows
from hecate_core.shapes import Bool, Float, Tensor


class Sequential:
    """Token by token through `rule.step`; always valid, slow, the only one that decoding needs."""

    name = "sequential"
    needs = None
    exact = True

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
            return tokens.v, state
        return torch.stack(reads, 2), state
