"""A rule as TNT shows it to layers: parameters of several memories, their reads added up.

Spec: specs/strategies/tnt.md, Eq. 1 to 5.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch

from hecate_core.api import Float, Gate, Linearised, MemoryRule, Param, Params, Refused, State, Tensor, Tokens

if TYPE_CHECKING:
    from hecate_tnt.strategy import TNT


def local_name(index: int, name: str) -> str:
    """What the parameter of local memory `index` is called."""
    return f"local{index}_{name}"


class Memories:
    """The rule's inputs and gates; parameters and state of the global memory and of every local one.

    Local starts are learned even where the rule's own is not: a local memory begins there in every shard.
    """

    def __init__(self, rule: MemoryRule, strategy: "TNT") -> None:
        self.rule, self._strategy = rule, strategy
        self.name, self.spec = rule.name, rule.spec
        self.inputs: Mapping[str, str] = rule.inputs
        self.gates: Mapping[str, Gate] = rule.gates
        self.widths: Mapping[str, tuple[float, str]] = getattr(rule, "widths", {})
        self.params: Mapping[str, Param] = _all_params(rule, len(strategy.local_chunks), strategy.global_chunk > 0)

    def init_state(self, params: Params, batch: int) -> State:
        """Every memory at its start."""
        return self._strategy.init_state(self, params, batch)

    def step(self, params: Params, state: State, token: Tokens) -> tuple[Float[Tensor, "B H V"], State]:
        """One token of the whole: what the strategy does with a text of one token."""
        y, after = self._strategy(self, params, token.map(lambda one: one.unsqueeze(2)), state)
        return y.squeeze(2), after

    def read(self, params: Params, state: State, q: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """What all memories answer together, nothing written."""
        return self._strategy.read(self, params, state, q)

    def offers(self, form: Any) -> Any:
        """The forms of the rule: each memory is one."""
        return self.rule.offers(form)


def params_of(rule: MemoryRule, params: Params, index: int) -> Params:
    """The parameters of local memory `index`, the rule's own where it has none to itself."""
    mine = {name: params.get(local_name(index, name), params.get(name)) for name in rule.params}
    return Params.of(mine)


def _all_params(rule: MemoryRule, locals_: int, has_global: bool) -> dict[str, Param]:
    starts = _starts(rule)
    found = dict(rule.params) if has_global else {}
    for index in range(locals_):
        for name, one in rule.params.items():
            found[local_name(index, name)] = attrs.evolve(one, learned=one.learned or name in starts)
    return found


def _starts(rule: MemoryRule) -> set[str]:
    """The parameters that a memory starts from: those whose names its weights have."""
    form = rule.offers(Linearised)
    assert not isinstance(form, Refused)
    tiny = {name: torch.zeros([1] * len(one.axes.split())) for name, one in rule.params.items()}
    return set(rule.init_state(Params.of(tiny), 1).at(form.memory))
