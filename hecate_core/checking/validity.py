"""The validity table: rule x retention x strategy x composition, derived from what each declares, never stored."""

from collections.abc import Iterator
from typing import Any

import attrs

from hecate_core.checking.cells import CHUNK
from hecate_core.composed import ComposedRule
from hecate_core.composing import rule_of, strategy_of
from hecate_core.errors import HecateError
from hecate_core.forms import Refused
from hecate_core.protocols import MemoryRule, Strategy
from hecate_core.registry import registry

OWN = "own"
"""The retention that a rule brings."""


@attrs.frozen
class Cell:
    """One combination and its verdict: exact, approximate or invalid, with the reason where it is invalid."""

    rule: str
    retention: str
    strategy: str
    composition: str
    verdict: str
    reason: str = ""

    def record(self) -> dict[str, str]:
        """Plain values for JSON."""
        return attrs.asdict(self)


def with_retention(rule: MemoryRule, retention: str) -> MemoryRule:
    """The rule with another retention in its place; HecateError with the reason where that is no rule."""
    if retention == OWN:
        return rule
    if not isinstance(rule, ComposedRule):
        raise HecateError("the rule has a step of its own, so its retention is no knob")
    return ComposedRule(
        rule.name,
        structure=rule.structure,
        bias=rule.bias,
        retention=registry().create("retention", retention),
        algorithm=rule.algorithm,
        spec=rule.spec,
    )


def verdict(rule: MemoryRule, strategy: Strategy) -> tuple[str, str]:
    """What a strategy makes of a rule: "exact", "approximate", or "invalid" and why."""
    if strategy.needs is None:
        return ("exact" if strategy.exact else "approximate"), ""
    form: object = rule.offers(strategy.needs)  # type: ignore[type-var]
    if isinstance(form, Refused):
        return "invalid", form.reason
    inherited = getattr(strategy, "inherits", False) and getattr(form, "exact", False)
    return ("exact" if strategy.exact or inherited else "approximate"), ""


def validity(rules: list[str] | None = None) -> Iterator[Cell]:
    """Every cell of the table, for the named rules or all that are registered."""
    compositions = {name: _use(name) for name in registry().names("composition")}
    for name in registry().names("rule") if rules is None else rules:
        for retention in (OWN, *registry().names("retention")):
            try:
                made = with_retention(rule_of(name), retention)
            except HecateError as error:
                yield from _alike(name, retention, compositions, str(error))
                continue
            for strategy in registry().names("strategy"):
                found = judged(made, strategy)
                for composition, problem in compositions.items():
                    yield Cell(name, retention, strategy, composition, *(("invalid", problem) if problem else found))


def judged(rule: MemoryRule, strategy: str) -> tuple[str, str]:
    """What a registered strategy makes of a rule, told before it is made: as `verdict`."""
    try:
        factory = registry().component("strategy", strategy)
        if factory.needs is None:
            return verdict(rule, strategy_of(strategy, rule, chunk=CHUNK))
        found = verdict(rule, factory)
        if found[0] != "invalid":
            strategy_of(strategy, rule, chunk=CHUNK)  # it may refuse for a reason beyond the form
    except HecateError as error:
        return "invalid", str(error)
    return found


def _alike(rule: str, retention: str, compositions: Any, reason: str) -> Iterator[Cell]:
    for strategy in registry().names("strategy"):
        for composition in compositions:
            yield Cell(rule, retention, strategy, composition, "invalid", reason)


def _use(composition: str) -> str:
    """Why a composition has no use for a memory, or ""."""
    try:
        remembers = registry().component("composition", composition).remembers
    except HecateError as error:
        return str(error)
    return "" if remembers else "the composition wants no memory"


def table_lines(cells: list[Cell]) -> list[str]:
    """The table as text: a line per rule and retention, verdicts by strategy; refusals with their reasons."""
    lines, seen = [], dict[tuple[str, str], dict[str, Cell]]()
    for cell in cells:
        if cell.reason != "the composition wants no memory":
            seen.setdefault((cell.rule, cell.retention), {})[cell.strategy] = cell
    for (rule, retention), by_strategy in seen.items():
        name = rule if retention == OWN else f"{rule} with {retention}"
        parts = [
            f"{strategy} {cell.verdict}" + (f" ({cell.reason})" if cell.reason else "")
            for strategy, cell in by_strategy.items()
        ]
        if len({cell.reason for cell in by_strategy.values()}) == 1 and next(iter(by_strategy.values())).reason:
            parts = [f"invalid ({next(iter(by_strategy.values())).reason})"]
        lines.append(f"{name}: {'; '.join(parts)}")
    return lines
