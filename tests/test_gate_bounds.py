"""10,000 tokens at every corner of a rule's declared gate ranges: reads and memory stay finite (`make soak`)."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hecate_core.composing import presented, rule_of, strategy_of
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.parameters import initial_params
from hecate_core.protocols import MemoryRule
from hecate_core.records import Tokens
from hecate_core.registry import registry
from hecate_core.widths import full_widths

from .rule_forms import CASES

WIDTH, CHUNK, PIECE = 16, 16, 500
UNIT = ("q", "k")  # streams that a front normalises


def strategy_for(rule: MemoryRule) -> str:
    """The exact chunk form where there is one, else the one that models are built with."""
    if not isinstance(rule.offers(Affine), Refused):
        return "chunkwise"
    return "sequential" if isinstance(rule.offers(Linearised), Refused) else "frozen"


def corners(rule: MemoryRule) -> list[tuple[float, ...]]:
    """Every gate at its start, and every combination of ends of ranges."""
    gates = list(rule.gates.values())
    return [tuple(gate.init for gate in gates), *product(*((gate.low, gate.high) for gate in gates))]


def largest_read(name: Any, strategy: Any, pieces: int, width: int = WIDTH) -> float:
    """Over all corners, one per batch row; keys are random in even pieces and one single key in odd ones."""
    rule = rule_of(name)
    spread = strategy_of(strategy, rule, chunk=CHUNK)
    shown, rows = presented(rule, spread), corners(rule)
    widths = full_widths(shown, {"H": 1, "K": width, "V": width, "M": width})
    params, random = initial_params(shown, widths), torch.Generator().manual_seed(0)
    gates = {}
    for gate, values in zip(rule.gates, zip(*rows, strict=True), strict=True):
        letter = rule.gates[gate].width
        shape = (-1, 1, PIECE) if letter is None else (-1, 1, PIECE, widths[letter])
        gates[gate] = torch.tensor(values).view(-1, *[1] * (len(shape) - 1)).expand(shape)
    state, largest = spread.init_state(shown, params, len(rows)), 0.0
    for index in range(pieces):
        made = {one: torch.randn(1, 1, PIECE, widths[letter], generator=random) for one, letter in rule.inputs.items()}
        if index % 2:
            made = {one: x[:, :, :1].expand_as(x) if one in UNIT else x for one, x in made.items()}
        inputs = {one: F.normalize(x, dim=-1) if one in UNIT else x for one, x in made.items()}
        tokens = Tokens.of({**{one: x.expand(len(rows), -1, -1, -1) for one, x in inputs.items()}, **gates})
        with torch.no_grad():
            y, state = spread(shown, params, tokens, state)
        assert torch.isfinite(y).all(), f"reads after {(index + 1) * PIECE} tokens"
        assert all(torch.isfinite(one).all() for one in state.flat().values()), "state"
        largest = max(largest, float(y.abs().max()))
    return largest


@pytest.mark.soak
@pytest.mark.parametrize("name", registry().names("rule"))
def test_ten_thousand_tokens_at_the_declared_bounds_stay_finite(name: str) -> None:
    print(f"{name}: {largest_read(name, strategy_for(rule_of(name)), 20):.3g}")


@pytest.mark.soak
@pytest.mark.parametrize("name", ["titans", "titans-deep", "moneta"])
def test_so_do_the_memories_of_tnt(name: str) -> None:
    print(
        f"{name}: {largest_read(name, {'name': 'tnt', 'reduce': 'mean', 'local_chunks': [4], 'shards': [64]}, 20):.3g}"
    )


# Specs say of these that no range is stable.
UNBOUNDED = [("self-modifying-titans", {"values": "free"})]


def _case(name: str, options: Mapping[str, Any]) -> Any:
    marks = [pytest.mark.xfail(strict=True, reason="its specification says so")] if (name, options) in UNBOUNDED else []
    return pytest.param(name, options, marks=marks, id=f"{name}-{options}".replace(" ", ""))


@pytest.mark.soak
@pytest.mark.parametrize(("name", "options"), [_case(*one) for one in CASES])
def test_so_does_every_form_of_every_rule(name: str, options: Mapping[str, Any]) -> None:
    """At half the width: windows of polynomial features are large."""
    made = {"name": name, **options}
    print(f"{name} {dict(options)}: {largest_read(made, strategy_for(rule_of(made)), 20, WIDTH // 2):.3g}")


@pytest.mark.parametrize("name", registry().names("rule"))
def test_a_short_text_at_the_declared_bounds_stays_finite(name: str) -> None:
    assert largest_read(name, strategy_for(rule_of(name)), 1) < 1e6
