"""Limit cases in which one member is another: both run on the same tokens in float64 and agree to rounding.

Each identity (`identities/`) names the members it speaks of; one that speaks of a member nobody registered is skipped
by name, and the suite fails when too few are left. Sources: section "Identities" of each specification.
"""

from typing import Any

import pytest
import torch

from hecate_core import memory
from hecate_core.composing import rule_of
from hecate_core.errors import CompositionError
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.registry import registry
from hecate_core.shapes import Tensor

from .identities import affine, deep, of_knobs, outer, spread
from .identities.claims import EXACT, IDENTITIES, RETAIN, WIDTHS, WRITE, Identity, T, first_params, full, read

FAMILIES = (affine, deep, of_knobs, outer, spread)
LEAST = 12  # with this few left the suite says nothing


@pytest.mark.parametrize("one", IDENTITIES, ids=lambda one: one.claim.replace(" ", "-"))
def test_two_members_are_one_in_the_limit(one: Identity) -> None:
    if one.missing:
        pytest.skip(f"not registered: {', '.join(one.missing)}")
    found, expected = one.sides()
    assert found.shape == expected.shape
    assert expected.abs().max() > 1e-3, "both sides are nothing"
    assert float((found - expected).abs().max()) < EXACT * max(1.0, float(expected.abs().max()))


def test_enough_identities_are_there() -> None:
    """Most are about first-party members; a workspace without them checks next to nothing and says so."""
    applying = [one.claim for one in IDENTITIES if not one.missing]
    assert len(applying) >= LEAST, f"only {len(applying)} of {len(IDENTITIES)} apply"
    assert len({one.claim for one in IDENTITIES}) == len(IDENTITIES) >= 25


RULES = [
    name for name in registry().names("rule") if {"q", "k", "v"} <= set(rule_of(name).inputs)
]  # as `memory` takes them


def random_tokens(name: str) -> dict[str, Any]:
    """Inputs of a rule and gates inside their ranges, as `memory` takes them."""
    from hecate_core.testing.samples import tokens_for
    from hecate_core.widths import full_widths

    rule = rule_of(name)
    made = tokens_for(rule, full_widths(rule, WIDTHS), T, inner=True)
    gates = {gate: made[gate] for gate in rule.gates}
    return {"gates": gates, "params": first_params(name), **{one: made[one] for one in rule.inputs}}


@pytest.mark.parametrize("name", RULES)
def test_one_run_is_two_with_the_state_carried(name: str) -> None:
    given = random_tokens(name)
    whole, end = memory(rule=name, strategy="sequential", **given)
    halves, state = [], None
    for part in (slice(0, 5), slice(5, T)):
        cut = {key: one[:, :, part] for key, one in given.items() if isinstance(one, Tensor)}
        gates = {key: one[:, :, part] for key, one in given["gates"].items()}
        y, state = memory(rule=name, strategy="sequential", state=state, gates=gates, params=given["params"], **cut)
        halves.append(y)
    assert float((torch.cat(halves, 2) - whole).abs().max()) < EXACT
    assert state is not None
    assert all(float((one - end.flat()[key]).abs().max()) < EXACT for key, one in state.flat().items())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("strategy", "chunk"), [("frozen", 1), ("chunkwise", 1), ("chunkwise", 5), ("chunkwise", 64)])
def test_a_strategy_is_sequential_where_it_must_be(name: str, strategy: str, chunk: int) -> None:
    rule = rule_of(name)
    form: object = rule.offers(Linearised) if strategy == "frozen" else rule.offers(Affine)
    if isinstance(form, Refused):
        with pytest.raises(CompositionError):
            memory(rule=name, strategy=strategy, chunk_size=chunk, **random_tokens(name))
        return
    given = random_tokens(name)
    y, end = memory(rule=name, strategy="sequential", **given)
    z, other = memory(rule=name, strategy=strategy, chunk_size=chunk, **given)
    assert float((y - z).abs().max()) < 100 * EXACT * max(1.0, float(y.abs().max()))
    flat = other.flat()
    shared = [key for key in end.flat() if key in flat]
    assert any(key.startswith("memory") for key in shared)
    assert all(float((end.flat()[key] - flat[key]).abs().max()) < 100 * EXACT for key in shared)


def test_an_identity_that_does_not_hold_is_found() -> None:
    """The decay first instead of the error first: the comparison sees it."""
    found, expected = (
        read("titans", retain=RETAIN, write=WRITE, momentum=full(0.0)),
        read("delta", retain=RETAIN, write=WRITE),
    )
    assert float((found - expected).abs().max()) > 1e-3
