"""Ranges of rates that follow from what the knobs declare: no rule with an affine form grows along one key."""

import math
from itertools import product as corners

import pytest
import torch

from hecate_core import memory
from hecate_core.composing import rule_of
from hecate_core.errors import CompositionError
from hecate_core.forms import Affine, Refused
from hecate_core.records import Params, Tokens
from hecate_core.shapes import Tensor

from .knob_forms import Product, products

COUNT = 40  # tokens with one key; a factor of -2 alone makes 1e12 of 1
BOUND = COUNT**2  # with momentum a memory that keeps all may add up sums of values of length 1

AFFINE = {product: rule for product, rule in products()[0].items() if not isinstance(rule.offers(Affine), Refused)}


def largest_answer(product: Product) -> float:
    """|M k| over tokens with one unit key and one value, at every corner of the gates' ranges."""
    rule, largest = AFFINE[product], 0.0
    (layer,) = rule.structure.layers
    ends = list(corners(*((gate.low, gate.high) for gate in rule.gates.values())))
    key = torch.tensor([0.6, 0.8], dtype=torch.float64).expand(len(ends), 1, 2)
    token = Tokens(q=key, k=key, v=torch.ones(len(ends), 1, 2, dtype=torch.float64))
    for (name, gate), values in zip(rule.gates.items(), zip(*ends, strict=True), strict=True):
        made: Tensor = torch.tensor(values, dtype=torch.float64).view(-1, 1)
        token = token.replace(**{name: made if gate.width is None else made.unsqueeze(-1).expand(-1, 1, 2)})
    params = Params.of({layer: torch.ones(1, 2, 2, dtype=torch.float64)})
    state = rule.init_state(params, len(ends))
    for _ in range(COUNT):
        y, state = rule.step(params, state, token)
        largest = max(largest, float(y.abs().max()))
    return largest


def test_no_rule_with_an_affine_form_grows_along_one_key() -> None:
    assert len(AFFINE) > 100
    growing = {str(one): answer for one in AFFINE if (answer := largest_answer(one)) > BOUND}
    assert growing == {}


KNOBS = {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "gd"}
TWICE = {"name": "lp", "p": 2.0, "smooth": False}  # its gradient is twice the error


@pytest.mark.parametrize(
    ("knobs", "highest"),
    [
        ({}, 1.0),
        ({"bias": TWICE}, 0.5),
        ({"bias": "dot", "algorithm": "dgd"}, 1.0),
        ({"algorithm": "dgd"}, 0.5),
        ({"algorithm": "dgd", "retention": "none"}, 1.0),
        ({"algorithm": {"name": "dgd", "erase": "gate"}}, 0.5),
        ({"bias": TWICE, "algorithm": "dgd"}, 1.0 / 3.0),
        ({"bias": TWICE, "algorithm": "momentum"}, 0.1),
        ({"algorithm": "momentum"}, 0.2),
        ({"algorithm": "momentum", "bias": "dot"}, 1.0),
        ({"bias": TWICE, "algorithm": {"name": "gd", "at": "kept"}}, 1.0),
        ({"bias": TWICE, "algorithm": {"name": "gd", "at": "kept", "reach": 2.0}}, 1.0),
        ({"structure": {"name": "mlp", "depth": 1}, "bias": TWICE}, 0.5),
        ({"structure": {"name": "mlp", "depth": 2}}, 1 / 20),
        ({"structure": {"name": "mlp", "depth": 2}, "bias": TWICE}, 1 / 40),
        ({"structure": {"name": "mlp", "depth": 2}, "algorithm": "momentum"}, 0.2 / 20),
        ({"structure": {"name": "mlp", "depth": 2}, "bias": "dot"}, 0.05 / 8),
        ({"structure": {"name": "mlp", "norm": True}, "bias": TWICE}, 1.0),
        ({"bias": "lp"}, 1 / 24),
        ({"bias": "lp", "algorithm": "dgd"}, 1 / 25),
        ({"bias": "robust", "algorithm": "momentum"}, 0.2 / 1.1),
        ({"retention": {"name": "lq"}, "bias": TWICE}, 1.0),  # more evidence, smaller weights
        ({"retention": {"name": "lq", "link": "dual"}, "bias": TWICE}, 0.5),
        ({"retention": "kl", "bias": TWICE}, 1.0),  # shares of a mass
        ({"retention": "bregman"}, 8.0 / (0.1 * math.sinh(8.0))),
    ],
)
def test_the_write_range_ends_where_the_knobs_say(knobs: dict[str, object], highest: float) -> None:
    gate, plain = rule_of({**KNOBS, **knobs}).gates["write"], rule_of(KNOBS).gates["write"]
    assert gate.high == pytest.approx(highest)
    assert gate.init <= gate.high / 2.0 or gate.init == plain.init


def test_a_start_is_lowered_by_the_same_factor_where_a_bound_is_derived() -> None:
    gate, plain = rule_of({**KNOBS, "algorithm": "dgd"}).gates["write"], rule_of(KNOBS).gates["write"]
    assert gate.init / plain.init == pytest.approx(gate.high / plain.high)


def test_a_momentum_over_errors_stays_bounded_on_random_keys() -> None:
    rule = rule_of({**KNOBS, "algorithm": "momentum"})
    assert rule.gates["momentum"].high == 0.6
    random = torch.Generator().manual_seed(0)
    k = torch.nn.functional.normalize(torch.randn(1, 1, 2000, 16, generator=random), dim=-1)
    v = torch.randn(1, 1, 2000, 16, generator=random)
    ends = {name: torch.full((1, 1, 2000), gate.high) for name, gate in rule.gates.items()}
    assert float(memory(k, k, v, rule=rule, gates=ends)[0].abs().max()) < 100.0
    wide = {**ends, "momentum": torch.full((1, 1, 2000), 0.99), "write": torch.full((1, 1, 2000), 1.0)}
    free = rule_of({**KNOBS, "algorithm": "momentum", "narrow": {"momentum": {"high": 0.99}}})
    assert not float(memory(k, k, v, rule=free, gates=wide)[0].abs().max()) < 1e6


def test_a_preset_says_its_own_range_within_that() -> None:
    assert rule_of({"name": "dgd", "bias": "l2"}).gates["write"].high == 0.5
    assert rule_of("dgd").gates["write"].high == 1.0


def test_a_fixed_rate_beyond_the_bound_is_refused_with_both_numbers() -> None:
    with pytest.raises(CompositionError, match=r"up to 3 of what .* at most 1 is stable"):
        rule_of({**KNOBS, "algorithm": {"name": "gd", "rate": 3.0}})
    rule_of({**KNOBS, "retention": "none", "algorithm": {"name": "gd", "rate": 2.0}})
    rule_of({**KNOBS, "bias": "dot", "algorithm": {"name": "gd", "rate": 3.0}})


def test_a_range_beyond_it_is_not_taken_back_by_narrowing() -> None:
    with pytest.raises(CompositionError, match="can only be narrowed"):
        rule_of({**KNOBS, "algorithm": "dgd", "narrow": {"write": {"high": 0.8}}})
