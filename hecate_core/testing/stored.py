"""What a strategy's state holds of a rule's own: one memory, or several under names of their own."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch

from hecate_core.forms import Factors, Linearised, Refused
from hecate_core.protocols import MemoryRule, Strategy
from hecate_core.records import Params, State, Tokens
from hecate_core.shapes import Tensor
from hecate_core.strategies.anchored import back_in_domain
from hecate_core.testing.engine import Failed
from hecate_core.testing.samples import BATCH, RuleCase, demand_close

EXACT = 1e-9  # float64: the same sums in another order


def parts(case: RuleCase, state: State) -> list[str]:
    """Where a strategy's state keeps states of the rule: "" for the whole, "local0" for a part; Failed for nowhere."""
    name = next(iter(case.rule.init_state(case.params, BATCH).flat()))
    found = [path.removesuffix(name) for path in state.flat() if path == name or path.endswith(f".{name}")]
    if not found:
        raise Failed(f"the state holds {', '.join(state.flat())}; expected the rule's {name}, there or in a part")
    return [prefix.removesuffix(".") for prefix in found]


def kept(case: RuleCase, state: State) -> dict[str, dict[str, Tensor]]:
    """By part what the rule keeps there, its memory back in its domain: inside a chunk it may be stored outside."""
    names = case.rule.init_state(case.params, BATCH).flat()
    found = {}
    for part in parts(case, state):
        flat = _settled(case, state.at(part) if part else state).flat()
        found[part] = {name: flat[name] for name in names}
    return found


def _settled(case: RuleCase, state: State) -> State:
    form = case.rule.offers(Linearised)
    if isinstance(form, Refused) or form.project is None:
        return state
    stored, written = state.at(form.memory), state.get("unprojected")
    if written is None:
        return state.put(form.memory, stored.map(form.project))
    return state.put(form.memory, State.of(back_in_domain(stored, form.project, written)))


def crossed(periods: tuple[int, ...], position: int, count: int) -> list[int]:
    """Offsets, 1 to `count` - 1, of the tokens from `position` that lie on a multiple of one of the periods."""
    return [at for at in range(1, count) if any((position + at) % period == 0 for period in periods)]


def demand_rest(what: str, case: RuleCase, strategy: Strategy, before: State, after: State, row: int | None) -> None:
    """Failed unless memory and momentum are what they were, or, of a part that restarts on the way, its start."""
    now, was = kept(case, after), kept(case, before)
    fresh = kept(case, strategy.init_state(case.rule, case.params, BATCH))
    restarts = getattr(strategy, "restarts", {})
    for part, tensors in now.items():
        period, count = restarts.get(part, 0), after.position - before.position
        anew = bool(period) and bool(crossed((period,), before.position - 1, count + 1))
        for name, one in tensors.items():
            expected = (fresh if anew else was)[part][name]
            place = f"{what}: state.{f'{part}.' if part else ''}{name}"
            pair = (one, expected) if row is None else (one[row], expected[row])
            demand_close(place, *pair, EXACT)


class Held:
    """A rule whose linear changes are taken, pass after pass, at the anchors of the first one.

    What it makes then is a function of everything but the anchors: the one that a strategy differentiates whose outer
    gradient ends at them (`detach`).
    """

    def __init__(self, rule: Any) -> None:
        self._rule = rule
        self._anchors: list[State] = []
        self._at: int | None = None  # the next anchor of a later pass; None in the first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)

    def first(self) -> None:
        """A first pass begins."""
        self._anchors, self._at = [], None

    def again(self) -> None:
        """A pass begins that repeats the first one."""
        self._at = 0

    def offers(self, form: Any) -> Any:
        """The rule's form, its factors at the held anchors."""
        offered = self._rule.offers(form)
        return replace(offered, factors=self._held(offered.factors)) if isinstance(offered, Linearised) else offered

    def _held(self, factors: Callable[[Params, State, Tokens], Factors]) -> Callable[[Params, State, Tokens], Factors]:
        def held(params: Params, anchor: State, tokens: Tokens) -> Factors:
            if self._at is None:
                self._anchors.append(anchor.map(torch.Tensor.detach))
                return factors(params, anchor, tokens)
            if self._at == len(self._anchors):
                raise Failed("two passes over the same tokens take their gradients at another number of anchors")
            self._at += 1
            return factors(params, self._anchors[self._at - 1], tokens)

        return held


def with_anchors_held(case: RuleCase, strategy: Strategy) -> tuple[RuleCase, Held | None]:
    """The case with the rule that a detached strategy differentiates; the case itself for any other strategy."""
    if not getattr(strategy, "detach", False):
        return case, None
    held, other = Held(case.rule), copy.copy(case)
    other.rule = cast(MemoryRule, held)
    return other, held
