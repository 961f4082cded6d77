"""The gates that hold under a strategy: where many tokens take their errors at one memory, rates end earlier.

Spec: specs/forms/linearised.md, Eq. 14. Derived from what the rule's form and the strategy declare, never from names.
"""

from collections.abc import Mapping

import attrs

from hecate_core.errors import CompositionError
from hecate_core.forms import Linearised, Refused
from hecate_core.gates import Gate
from hecate_core.protocols import MemoryRule, Strategy

ROLE = "write"


def gates_under(rule: MemoryRule, strategy: Strategy) -> Mapping[str, Gate]:
    """The rule's gates with the range and the start of `write` that hold for what the strategy sums.

    Raises CompositionError where the rate is fixed, so that nothing can be narrowed.
    """
    share = share_of(rule, strategy)
    if share == 1.0:
        return rule.gates
    if ROLE not in rule.gates:
        raise CompositionError(
            f'rule "{rule.name}" under strategy "{strategy.name}": {summed_of(strategy)} tokens take their errors at '
            f"one memory, its step has no write gate and is stable for {round(share * summed_of(strategy))}; "
            "choose a smaller chunk, a rule with a write gate, or an exact strategy"
        )
    gate = rule.gates[ROLE]
    narrowed = attrs.evolve(gate, low=share * gate.low, high=share * gate.high, init=share * gate.init)
    return {**rule.gates, ROLE: narrowed}


def summed_of(strategy: Strategy) -> int:
    """The most steps that the strategy adds up along errors of one memory."""
    found: int = getattr(strategy, "summed", 1)
    return found


def share_of(rule: MemoryRule, strategy: Strategy) -> float:
    """What is left of the range of `write`: span / summed, at most 1."""
    form = rule.offers(Linearised)
    if isinstance(form, Refused) or form.span is None:
        return 1.0
    return min(1.0, form.span / summed_of(strategy))
