"""Checks of a strategy: every law of spreading, over the rules that it serves, and its refusals."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hecate_core.composing import rule_of, strategy_of
from hecate_core.errors import CompositionError
from hecate_core.forms import Refused
from hecate_core.protocols import MemoryRule, Strategy
from hecate_core.registry import registry
from hecate_core.testing import spreading
from hecate_core.testing.engine import Check, Failed, Suite, Unasked
from hecate_core.testing.members import CHUNK
from hecate_core.testing.samples import RuleCase


class StrategyCase:
    """A strategy, rules that it serves and rules that it must refuse."""

    def __init__(self, strategy: Any, rules: Sequence[Any] | None) -> None:
        given = _registered() if rules is None else [RuleCase(rule_of(rule)) for rule in rules]
        self.serves: list[tuple[RuleCase, Strategy]] = []
        self.refuses: list[RuleCase] = []
        self.member: Any = strategy
        for case in given:
            made = _for_rule(strategy, case.rule)
            if made is None:
                self.refuses.append(case)
            else:
                self.member = made
                self.serves.append((case, made))
        if not self.serves:
            raise CompositionError("serves none of the rules; give check_strategy a rule that it serves")

    def under(self, law: spreading.Law) -> None:
        """A law with every rule."""
        for case, strategy in self.serves:
            try:
                law(case, strategy)
            except Failed as found:
                raise Failed(f"rule {case.rule.name}: {found}") from None


def _registered() -> list[RuleCase]:
    """Every registered rule that can be made; the suite of rules tells about the others."""
    found = []
    for name in registry().names("rule"):
        with contextlib.suppress(Exception):
            found.append(RuleCase(rule_of(name)))
    return found


def _for_rule(strategy: Any, rule: MemoryRule) -> Strategy | None:
    try:
        return strategy_of(strategy, rule, chunk=CHUNK)
    except CompositionError:
        return None


STRATEGY: Suite[StrategyCase] = Suite("strategy")


def check_strategy(
    strategy: Any, *, rules: Sequence[Any] | None = None, expected: Mapping[str, str] | None = None
) -> Iterator[Check]:
    """Every check of a strategy (instance, name or table) over `rules`, by default all that are registered."""
    name = str(getattr(strategy, "name", strategy))
    return STRATEGY.run(name, lambda: StrategyCase(strategy, rules), expected)


@STRATEGY.check
def refuses_with_the_rule_s_reason(case: StrategyCase) -> None:
    """A rule without the form that is needed is refused, in its own words."""
    if case.member.needs is None:
        raise Unasked("needs no form")
    for rule in case.refuses:
        if isinstance(rule.rule.offers(case.member.needs), Refused):
            spreading.refusal_has_a_reason(rule, case.member)


def _of_every_rule(law: spreading.Law) -> None:
    def check(case: StrategyCase) -> None:
        case.under(law)

    check.__name__, check.__doc__ = law.__name__, law.__doc__
    STRATEGY.check(check)


for _law in spreading.LAWS:
    _of_every_rule(_law)
