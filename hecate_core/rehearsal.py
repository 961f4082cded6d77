"""A call without numbers: what the ops of a memory refuse is known when it is composed, not at its first call."""

import torch

from hecate_core.ops.operator import shaping
from hecate_core.precision import handed
from hecate_core.protocols import MemoryRule, Strategy, Widths
from hecate_core.records import Params, Tokens
from hecate_core.shapes import Tensor
from hecate_core.widths import full_widths


def rehearse(
    rule: MemoryRule, strategy: Strategy, params: Params, widths: Widths, length: int, dtype: torch.dtype
) -> bool:
    """Runs the strategy over `length` tokens of inputs in `dtype`, on meta tensors: shapes alone, nothing is computed.

    Raises what a call with tensors of these sizes would raise. False where a step wants numbers to go on, so that
    nothing can be said before there are some.
    """
    widths = full_widths(rule, widths)
    wide = torch.promote_types(dtype, torch.float32)

    def bare(width: str | None, of: torch.dtype) -> Tensor:
        shape = (1, widths["H"], length, *([] if width is None else [widths[width]]))
        return torch.empty(shape, dtype=of, device="meta")

    inputs = Tokens.of({name: bare(letter, dtype) for name, letter in rule.inputs.items()})
    gates = {name: bare(gate.width, wide) for name, gate in rule.gates.items()}
    record = params.map(lambda one: one.detach().to("meta"))
    try:
        with shaping():  # a pair by itself, behind no operator, launches nothing either
            tokens = handed(strategy, rule, inputs).replace(**gates)
            strategy(rule, record, tokens, strategy.init_state(rule, record, 1))
    except RuntimeError:  # torch's own: meta tensors have no values to decide by
        return False
    return True
