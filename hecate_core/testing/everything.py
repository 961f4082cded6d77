"""The kit over all that is registered, or all of one plugin."""

from collections.abc import Callable, Iterator
from typing import Any

from hecate_core.registry import registry
from hecate_core.testing import claims as claims  # its checks join the suite of rules
from hecate_core.testing import contracts as contracts
from hecate_core.testing.compositions import COMPOSITION, check_composition
from hecate_core.testing.engine import Check, Suite
from hecate_core.testing.knobs import ALGORITHM, BIAS, RETENTION, check_algorithm, check_bias, check_retention
from hecate_core.testing.rules import RULE, check_rule
from hecate_core.testing.strategies import STRATEGY, check_strategy
from hecate_core.testing.structures import STRUCTURE, check_structure

KINDS: dict[str, Callable[..., Iterator[Check]]] = {
    "rule": check_rule,
    "structure": check_structure,
    "bias": check_bias,
    "retention": check_retention,
    "algorithm": check_algorithm,
    "strategy": check_strategy,
    "composition": check_composition,
}
"""The kinds that have a suite."""

SUITES: dict[str, Suite[Any]] = {
    "rule": RULE,
    "structure": STRUCTURE,
    "bias": BIAS,
    "retention": RETENTION,
    "algorithm": ALGORITHM,
    "strategy": STRATEGY,
    "composition": COMPOSITION,
}


def members(plugin: str | None = None) -> list[tuple[str, str]]:
    """Kind and name of every registered member that has a suite; `plugin` keeps those of one distribution."""
    found = [(kind, name) for kind in KINDS for name in registry().names(kind)]
    return [one for one in found if plugin is None or registry().find(*one).origin.answers_to(plugin)]


def check_member(kind: str, reference: Any) -> Iterator[Check]:
    """Every check of one member."""
    return KINDS[kind](reference)


def check_registered(plugin: str | None = None) -> Iterator[Check]:
    """Every check of every registered member, or of those of one distribution."""
    for kind, name in members(plugin):
        yield from check_member(kind, name)
