"""Rules of knobs that nobody chose a range for: steady at the start of their gates, numbers at the ends.

A covering set runs in `make test`, every product of registered knobs in `make soak`. Specs: forms/composed.md, Eq. 9
to 14.
"""

import itertools
from collections.abc import Iterator

import pytest
import torch

from hecate_core.composed import ComposedRule
from hecate_core.composing import rule_of
from hecate_core.errors import CompositionError
from hecate_core.knobs.biases import L2
from hecate_core.protocols import MemoryRule
from hecate_core.registry import registry

from .gate_streams import largest, strategies, told
from .knob_forms import KNOBS, Product, covering, forms

LEAST = 700  # rules of the knobs that are registered today; fewer is a fault of this file
LONG, SHORT, WIDTH = 600, 128, 6
STEADY = 1e4  # weights that are the inverse of evidence of almost nothing come to 1e3


def free(products: Iterator[tuple[str, ...]]) -> Iterator[tuple[str, MemoryRule]]:
    """Every rule that four registered names make."""
    for names in products:
        try:
            yield " ".join(names), rule_of(dict(zip(KNOBS, names, strict=True)))
        except CompositionError:
            continue  # the derived validity says why


def every() -> Iterator[tuple[str, MemoryRule]]:
    return free(itertools.product(*(registry().names(kind) for kind in KNOBS)))


def demand_steady(name: str, rule: MemoryRule, count: int) -> None:
    """At the start of the gates memories stay small; at their ends they stay numbers."""
    given = [one for one in strategies(rule, (16,)) if isinstance(one[0], str)]  # tnt is frozen several times
    for strategy, chunk in given:
        if strategy == "sequential" and len(given) > 1:
            continue  # frozen does the same with longer anchors
        found = largest(rule, strategy, chunk, count // 4 if strategy == "sequential" else count, WIDTH)
        assert float(found[:, 0].max()) < STEADY, f"{name} {strategy} {chunk} at the start: {told(found[:, :1])}"
        assert bool(torch.isfinite(found).all()), f"{name} {strategy} {chunk} at the ends: {told(found)}"


def test_a_covering_set_of_free_rules_is_steady() -> None:
    plain = {kind: {form.name: form for form in forms(kind)} for kind in KNOBS}
    rules = dict(every())
    products = [Product(*(plain[kind][one] for kind, one in zip(KNOBS, name.split(), strict=True))) for name in rules]
    chosen = covering(products)
    assert len(chosen) >= 40
    for one in chosen:
        name = " ".join(form.name for form in one.forms)
        demand_steady(name, rules[name], SHORT)


@pytest.mark.soak
@pytest.mark.parametrize("structure", registry().names("structure"))
def test_every_free_rule_is_steady(structure: str) -> None:
    others = (registry().names(kind) for kind in KNOBS[1:])
    count = 0
    for name, rule in free(itertools.product([structure], *others)):
        demand_steady(name, rule, LONG)
        count += 1
    assert 3 * count >= LEAST // 2


@pytest.mark.parametrize("names", ["matrix lp directional momentum", "mlp lp lq gd"])
def test_what_once_ran_away_stays_a_number(names: str) -> None:
    """An erase and a step that each bore the other's share; weights that are the inverse of evidence long decayed."""
    ((name, rule),) = free(iter([tuple(names.split())]))
    demand_steady(name, rule, LONG)


def test_there_are_as_many_as_there_were() -> None:
    assert sum(1 for _ in every()) >= LEAST


class Steep(L2):
    """A stranger's loss: an error counts threefold from length 4 on, and nothing is declared of that."""

    affine = None

    def cotangent(self, prediction: torch.Tensor, v: torch.Tensor, tokens: object) -> torch.Tensor:
        error = prediction - v
        return torch.where(error.norm(dim=-1, keepdim=True) >= 4.0, 3.0 * error, error)


def test_a_strangers_bias_is_measured_and_not_asked() -> None:
    like = rule_of({"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "gd"})
    assert isinstance(like, ComposedRule)
    made = ComposedRule(
        "own", structure=like.structure, bias=Steep(), retention=like.retention, algorithm=like.algorithm
    )
    assert made.gates["write"].high == pytest.approx(1 / 3)
    assert made.gates["write"].init == pytest.approx(1 / 6)


def test_a_named_range_is_taken_as_it_is() -> None:
    knobs = {"structure": "matrix", "bias": "lp", "retention": "scalar", "algorithm": "gd"}
    assert rule_of({**knobs, "narrow": {"write": {"high": 0.5}}}).gates["write"].high == 0.5


def test_ranges_are_probed_where_nothing_is_allocated() -> None:
    """A sweep composes every cell on no device first."""
    knobs = {"structure": "mlp", "bias": "huber", "retention": "lq", "algorithm": "momentum"}
    rules = [{"name": name} for name in registry().names("rule")]
    with torch.device("meta"):
        made = [rule_of(one).gates for one in (*rules, knobs)]
    assert made == [rule_of(one).gates for one in (*rules, knobs)]
