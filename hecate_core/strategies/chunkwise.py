"""The exact chunk form of every rule that is affine in its memory."""

from typing import Any

import torch

from hecate_core.errors import CompositionError, InputError
from hecate_core.forms import Affine, Refused
from hecate_core.ops.affine import REFERENCE, AffinePair, affine
from hecate_core.ops.affine_column import REFERENCE as COLUMN_REFERENCE
from hecate_core.ops.affine_column import ColumnPair, affine_column
from hecate_core.ops.serving import serving, takes
from hecate_core.precision import widened
from hecate_core.protocols import MemoryRule
from hecate_core.records import Params, State, Tokens
from hecate_core.shapes import Bool, Float, Tensor

# The op that a form names, and its implementation where none is given.
OPS: dict[str, tuple[Any, Any]] = {
    "affine": (affine, REFERENCE),
    "affine_column": (affine_column, COLUMN_REFERENCE),
}


class Chunkwise:
    """One triangular solve per chunk instead of a step per token; equal to `sequential` to rounding.

    `chunk` (tokens, >= 1) changes speed and memory, never the result. The form says which op serves it; `pair`
    implements that op (None: plain torch). Source: [2406.06484] Sec. 3; with momentum derived in specs/forms/affine.md,
    with a decay per column in specs/forms/affine-column.md.
    """

    name = "chunkwise"
    needs = Affine
    exact = True

    def __init__(self, *, chunk: int = 64, pair: AffinePair | ColumnPair | None = None) -> None:
        if chunk < 1:
            raise InputError(f"chunkwise: chunk = {chunk}; expected an integer >= 1")
        self.chunk = chunk
        self.pair = pair

    def init_state(self, rule: MemoryRule, params: Params, batch: int) -> State:
        """The rule's own first state: nothing beside it must be carried."""
        return rule.init_state(params, batch)

    def takes(self, rule: MemoryRule, q: Tensor) -> bool:
        """Whether the kernels read queries, keys and values of q's narrow dtype as they are."""
        form = rule.offers(Affine)
        if self.pair is None or isinstance(form, Refused) or not form.hands_on or form.gather is not None:
            return False
        return takes(serving(self.pair, q), q.dtype)

    def __call__(
        self,
        rule: MemoryRule,
        params: Params,
        tokens: Tokens,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """See `Strategy`. Raises CompositionError where the rule has no affine form."""
        form = rule.offers(Affine)
        if isinstance(form, Refused):
            raise CompositionError(f'rule "{rule.name}" has no exact chunk form ({form.reason}); use "sequential"')
        op, reference = OPS[form.op]
        pair = reference if self.pair is None else self.pair
        if pair.op != form.op:
            raise CompositionError(f'rule "{rule.name}" needs the op "{form.op}"; the pair given is for "{pair.op}"')
        count = tokens.q.shape[2]
        if form.gather is not None:
            tokens, state = form.gather(params, state, tokens, write)
        inputs: Any = form.coefficients(params, tokens)
        if any(one is not None and one.dtype.itemsize < 4 for one in inputs[3:]):  # computed of what came in narrow
            inputs = form.coefficients(params, tokens.map(widened))
        if write is not None:
            inputs = inputs.masked(write.repeat_interleave(form.group, 1).unsqueeze(1))
        memory = state.at(form.memory)
        surprise = None if form.momentum is None else state.at(form.momentum)
        if surprise is None and getattr(inputs, "momentum", None) is not None:
            surprise = torch.zeros_like(memory)  # a momentum inside groups that no token hands on
        y, memory, surprise = op(inputs, memory, surprise, self.chunk, pair)
        y = y[:, :, form.group - 1 :: form.group]
        state = state.put(form.memory, memory)
        if form.momentum is not None:
            state = state.put(form.momentum, surprise)
        return y, state.replace(position=state.position + count)
