"""Every named option of every registered strategy through the checks: green, or refused with a reason."""

import inspect
import itertools
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest

from hecate_core.checking.architecture import ARCHITECTURE, ModelCase
from hecate_core.checking.cells import tiny
from hecate_core.checking.dry_run import DRY_RUN, DryRun
from hecate_core.checking.findings import check_config
from hecate_core.composing import rule_of, strategy_of
from hecate_core.config import Config, make_config
from hecate_core.errors import HecateError
from hecate_core.registry import registry
from hecate_core.testing import check_strategy

LINKED = {"structure": "matrix", "bias": "l2", "retention": "sigmoid", "algorithm": "gd"}
COUNTS = (0, 1, 2, 5)  # tokens, or a stage
LISTS = ([], [1], [4], [16], [2, 4])  # tokens
GIVEN = ("pair", "step_pair", "link_pair")  # implementations, which the backend chooses
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("tnt", "fine_chunks"): {"stage": 2, "local_chunks": [16], "shards": [16]},
    ("tnt", "shards"): {"local_chunks": [2], "global_chunk": 6},
    ("tnt", "local_chunks"): {"global_chunk": 6},
}
"""What an option needs beside it to have a say within the few tokens of a check."""


def hints_of(strategy: str) -> dict[str, Any]:
    factory = registry().component("strategy", strategy)
    hints = typing.get_type_hints(factory.__init__)  # type: ignore[misc]
    return {name: hints.get(name) for name in inspect.signature(factory).parameters if name not in GIVEN}


def values_of(hint: Any) -> tuple[Any, ...]:
    """What is tried of an annotation; nothing of one that has too many values to be held to any."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if hint is bool:
        return (False, True)
    if hint is int:
        return COUNTS
    return LISTS if get_origin(hint) is tuple and get_args(hint)[:1] == (int,) else ()


def tables() -> Iterator[dict[str, Any]]:
    for strategy in registry().names("strategy"):
        yield {"name": strategy}
        signature = inspect.signature(registry().component("strategy", strategy)).parameters
        for option, hint in hints_of(strategy).items():
            for value in values_of(hint):
                if value != signature[option].default:
                    yield {"name": strategy, **BESIDE.get((strategy, option), {}), option: value}


TABLES = list(tables())
NAMES = [" ".join(f"{key}={value}" for key, value in table.items() if key != "name") for table in TABLES]
IDS = [f"{table['name']} {name}".replace(" ", "-") for table, name in zip(TABLES, NAMES, strict=True)]


def config_of(strategy: dict[str, Any], rule: Any = "titans") -> Config:
    memory = {"rule": rule, "strategy": strategy, "chunk": 4, "levels": [{}, {"write_period": 2, "update_period": 2}]}
    return make_config({"model": {"depth": 1, "composition": "lmm", "memory": memory}})


def refusal(strategy: dict[str, Any], rule: Any) -> str:
    """Why the options cannot be, or ""."""
    try:
        strategy_of(strategy, rule_of(rule), chunk=4)
    except HecateError as error:
        return str(error)
    return ""


def test_every_option_has_values_that_can_be_tried() -> None:
    """A plain string or number says nothing of what it may be: a Literal does."""
    for strategy in registry().names("strategy"):
        for option, hint in hints_of(strategy).items():
            assert values_of(hint), f"{strategy}: {option} is a {hint}; expected Literal, bool, int or tuple[int, ...]"


@pytest.mark.parametrize("strategy", TABLES, ids=IDS)
def test_an_option_keeps_every_law_or_is_refused_with_a_reason(strategy: dict[str, Any]) -> None:
    reason = refusal(strategy, "delta")
    if reason:
        assert "expected" in reason
        assert "\n" not in reason
        return
    if refusal(strategy, rule := LINKED if "link" in strategy else "delta"):  # a link is what that option is about
        rule = "delta"
    assert [one.line for one in check_strategy(strategy, rules=[rule]) if not one.ok] == []
    small = tiny(config_of(strategy, rule))
    assert [one.line for one in DRY_RUN.run("tested", lambda: DryRun(small)) if not one.ok] == []


@pytest.mark.soak
@pytest.mark.parametrize("strategy", TABLES, ids=IDS)
def test_an_option_is_green_in_hecate_check(strategy: dict[str, Any]) -> None:
    """As a user has it: the strategy over every registered rule, and the config as a whole model."""
    if not refusal(strategy, "titans"):
        assert [one.line for one in check_config(config_of(strategy)).failed] == []


@pytest.mark.soak
@pytest.mark.parametrize("name", registry().names("strategy"))
def test_options_with_few_values_go_with_each_other(name: str) -> None:
    few = {option: values_of(hint) for option, hint in hints_of(name).items() if hint is bool or hint is not int}
    few = {option: values for option, values in few.items() if values is not LISTS}
    for chosen in itertools.product(*few.values()):
        strategy = {"name": name, **dict(zip(few, chosen, strict=True))}
        if refusal(strategy, "delta"):
            continue
        rules = ["delta", LINKED] if not refusal(strategy, LINKED) else ["delta"]
        assert [one.line for one in check_strategy(strategy, rules=rules) if not one.ok] == [], strategy
        small = tiny(config_of(strategy))
        assert [one.line for one in ARCHITECTURE.run("tested", lambda one=small: ModelCase(one)) if not one.ok] == []
