"""10,000 tokens of keys in every order, at every corner of the ranges that hold under a strategy (`make soak`).

A shorter text, in `make test`, sees what runs away at once.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from hecate_core import strategy_gates
from hecate_core.composing import rule_of
from hecate_core.errors import CompositionError
from hecate_core.registry import registry

from .gate_streams import ORDERS, WIDTH, largest, strategies, told
from .rule_forms import CASES

LONG, SHORT = 10_000, 512
# Hebbian sums grow with the text, by a value a token; what runs away would be far beyond.
LIMIT = {LONG: 1e6, SHORT: 1e4}
SEQUENTIAL = 2_000  # tokens of the forms of a rule, one at a time

# Its spec promises nothing for keys that turn (rules/titans.md, Eq. 4 and 5): the other orders stay bounded.
UNTURNED = [("titans", {"keys": "unordered", "largest_momentum": 0.9})]
# Specs say of these that no range is stable.
UNBOUNDED = [("self-modifying-titans", {"values": "free"})]


def _demand_bounded(
    name: str, options: Mapping[str, Any], strategy: Any, chunk: int, count: int, width: int = WIDTH
) -> None:
    rule = rule_of({"name": name, **options})
    found = largest(rule, strategy, chunk, count, width)
    promised = [not (order.startswith("turning") and (name, options) in UNTURNED) for order in ORDERS]
    print(f"{name} {dict(options)} {strategy} {chunk}: {told(found)}")
    assert float(found[promised].max()) < LIMIT[LONG if count > SHORT else SHORT], told(found)


def _cells(chunks: tuple[int, ...] = (16, 64)) -> Iterator[Any]:
    for name in registry().names("rule"):
        for strategy, chunk in strategies(rule_of(name), chunks):
            yield pytest.param(name, strategy, chunk, id=f"{name}-{_short(strategy)}-{chunk}")


def _short(strategy: Any) -> str:
    return strategy if isinstance(strategy, str) else str(strategy["name"])


def _forms() -> Iterator[Any]:
    for name, options in CASES:
        marks = [pytest.mark.xfail(strict=True, reason="its specification says so")]
        for strategy, chunk in strategies(rule_of({"name": name, **options})):
            if _short(strategy) != "tnt":
                case = f"{name}-{options}-{strategy}-{chunk}".replace(" ", "")
                yield pytest.param(
                    name, options, strategy, chunk, id=case, marks=marks if (name, options) in UNBOUNDED else []
                )


@pytest.mark.soak
@pytest.mark.parametrize(("name", "strategy", "chunk"), list(_cells()))
def test_ten_thousand_tokens_at_the_bounds_that_hold_stay_finite(name: str, strategy: Any, chunk: int) -> None:
    _demand_bounded(name, {}, strategy, chunk, LONG)


@pytest.mark.soak
@pytest.mark.parametrize(("name", "options", "strategy", "chunk"), list(_forms()))
def test_so_does_every_form_of_every_rule(name: str, options: Mapping[str, Any], strategy: Any, chunk: int) -> None:
    _demand_bounded(name, options, strategy, chunk, SEQUENTIAL if strategy == "sequential" else LONG)


@pytest.mark.parametrize(("name", "strategy", "chunk"), list(_cells((64,))))
def test_a_short_text_at_the_bounds_that_hold_stays_small(name: str, strategy: Any, chunk: int) -> None:
    _demand_bounded(name, {}, strategy, chunk, SHORT // 4 if strategy == "sequential" else SHORT, WIDTH // 2)


@pytest.mark.parametrize("name", ["delta", "titans", "titans-deep"])
def test_the_declared_range_itself_runs_away_where_errors_are_old(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `gates_under` is for: the same text under the ranges of an exact strategy."""
    monkeypatch.setattr(strategy_gates, "share_of", lambda rule, strategy: 1.0)
    found = largest(rule_of(name), "frozen", 64, SHORT)
    assert not float(found.max()) < LIMIT[SHORT]


def test_a_strategy_that_does_not_serve_a_rule_says_so() -> None:
    with pytest.raises(CompositionError, match="cannot run under"):
        largest(rule_of("yaad"), "chunkwise", 16, 1)
