"""Which knobs make a rule, which strategies serve it: derived answers against the written table of the field."""

from itertools import product
from typing import Any

import pytest
import torch

from hecate_core.composed import ComposedRule
from hecate_core.errors import CompositionError
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.joined import Joined
from hecate_core.knobs.algorithms import GradientDescent, Momentum
from hecate_core.knobs.biases import L2
from hecate_core.knobs.matrix import Matrix
from hecate_core.knobs.mlp import MLP
from hecate_core.knobs.retentions import NoDecay, ScalarDecay
from hecate_core.records import Params, Tokens
from hecate_core.registry import registry

BIASES = ("dot", "l2", "l1", "lp", "huber", "robust", "kl")
AFFINE = ("dot", "l2")
LINKS = ("kl", "sigmoid", "bregman", "elastic-ftrl", "lq")


def rule(structure: Any = "matrix", bias: Any = "l2", retention: Any = "scalar", algorithm: Any = "gd") -> ComposedRule:
    named = {"structure": structure, "bias": bias, "retention": retention, "algorithm": algorithm}
    made = {kind: registry().create(kind, one) if isinstance(one, (str, dict)) else one for kind, one in named.items()}
    return ComposedRule("made", **made)


def refusal(**knobs: Any) -> str | None:
    """Why the knobs make no rule, or None."""
    try:
        rule(**knobs)
    except CompositionError as error:
        return str(error)
    return None


def serves(made: ComposedRule, form: Any) -> bool:
    return not isinstance(made.offers(form), Refused)


@pytest.mark.parametrize(("structure", "bias"), list(product(("matrix", "mlp"), BIASES)))
def test_exact_chunk_form_exists_for_matrices_with_affine_losses_only(structure: str, bias: str) -> None:
    for algorithm in ("gd", {"name": "gd", "at": "kept"}, "momentum"):
        made = rule(structure, bias, "scalar", algorithm)
        assert serves(made, Affine) == (structure == "matrix" and bias in AFFINE)
        assert serves(made, Linearised)


@pytest.mark.parametrize(("retention", "bias"), list(product(LINKS, BIASES)))
def test_links_go_with_every_loss_and_with_momentum_but_not_with_an_exact_form(retention: str, bias: str) -> None:
    for structure, algorithm in product(("matrix", "mlp"), ("gd", "momentum")):
        made = rule(structure, bias, retention, algorithm)
        assert serves(made, Linearised)
        answer = made.offers(Affine)
        assert isinstance(answer, Refused)
        if structure == "matrix" and bias in AFFINE:
            assert "link" in answer.reason


@pytest.mark.parametrize("bias", BIASES)
def test_projection_serves_frozen_and_own_steps_serve_the_token_loop_alone(bias: str) -> None:
    proximal, divergence = rule(bias=bias, retention="elastic-proximal"), rule(bias=bias, retention="f-divergence")
    assert serves(proximal, Linearised)
    assert not serves(proximal, Affine)
    for form in (Affine, Linearised):
        answer = divergence.offers(form)
        assert isinstance(answer, Refused)
    assert isinstance(answer, Refused)
    assert "not added" in answer.reason


@pytest.mark.parametrize("axis", ["column", "row"])
def test_decay_per_channel_needs_a_matrix(axis: str) -> None:
    assert "one matrix" in str(refusal(structure="mlp", retention=axis))
    assert serves(rule(retention=axis), Linearised)
    assert serves(rule(retention=axis, algorithm="momentum"), Linearised)
    assert not serves(rule(retention="row"), Affine)


def test_momentum_on_shares_is_refused_where_there_are_no_logits() -> None:
    assert "momentum on weights leaves the simplex" in str(refusal(retention="f-divergence", algorithm="momentum"))
    assert refusal(retention="kl", algorithm="momentum") is None


@pytest.mark.parametrize("retention", [*LINKS, "f-divergence"])
def test_error_at_the_kept_memory_behind_a_link_is_refused(retention: str) -> None:
    assert "kept memory" in str(refusal(retention=retention, algorithm={"name": "gd", "at": "kept"}))


def test_erasing_behind_a_link_is_refused() -> None:
    assert "erases" in str(refusal(retention="lq", algorithm="dgd"))
    assert refusal(retention="scalar", algorithm="dgd") is None


def test_a_loss_without_a_smallest_value_needs_a_decay_or_a_bounded_domain_on_a_network() -> None:
    assert "no smallest loss" in str(refusal(structure="mlp", bias="dot", retention="none"))
    assert refusal(structure="matrix", bias="dot", retention="none") is None
    assert refusal(structure="mlp", bias="dot", retention="scalar") is None
    assert refusal(structure="mlp", bias="dot", retention={"name": "kl", "decay": False}) is None
    assert refusal(structure="mlp", bias="l2", retention="none") is None


class OnSphere(NoDecay):
    """A stranger's retention: slots of length 1."""

    domain = "sphere"
    project = staticmethod(lambda stored: torch.nn.functional.normalize(stored, dim=-2))  # type: ignore[assignment]


class Slots(Matrix):
    domain = "sphere"


class Forgetting(GradientDescent):
    decays = True


class Orthogonal(Momentum):
    step_map = staticmethod(lambda step: step)  # type: ignore[assignment]


def test_a_strangers_knobs_are_judged_by_what_they_declare() -> None:
    assert "simplex" in str(refusal(structure=Slots(), retention="kl"))
    assert refusal(structure=Slots(), retention=OnSphere()) is None
    assert "momentum on weights leaves the sphere" in str(refusal(retention=OnSphere(), algorithm="momentum"))
    assert "one decay with two gates" in str(refusal(algorithm=Forgetting()))
    assert refusal(retention="none", algorithm=Forgetting()) is None
    assert "shares of a mass" in str(refusal(retention="kl", algorithm=Orthogonal()))
    assert refusal(retention="lq", algorithm=Orthogonal()) is None


def test_joined_retentions_take_a_decay_from_one_and_a_link_from_another() -> None:
    both = Joined(parts=["column", {"name": "lq", "decay": False}])
    assert (both.axis, both.domain, list(both.gates)) == ("column", "real", ["retain"])
    assert both.link is not None
    assert serves(rule(retention=both), Linearised)
    assert Joined(parts=[ScalarDecay(), OnSphere()]).project is not None
    assert Joined().gates == ScalarDecay.gates


def test_joined_retentions_that_exclude_each_other_are_refused() -> None:
    for parts, reason in (
        (["scalar", "lq"], "one decay with two gates"),
        (["scalar", "column"], "one decay with two gates"),
        ([{"name": "kl", "decay": False}, OnSphere()], "cannot live on the simplex and on the sphere"),
        ([{"name": "kl", "decay": False}, {"name": "lq", "decay": False}], "both stand between"),
        ([], "expected one retention"),
    ):
        with pytest.raises(CompositionError, match=reason):
            Joined(parts=parts)


class Shares(NoDecay):
    domain = "simplex"


def test_simplex_and_sphere_on_one_tensor_are_refused() -> None:
    with pytest.raises(CompositionError, match="cannot live on the simplex and on the sphere"):
        Joined(parts=[Shares(), OnSphere()])


def test_sphere_is_no_place_for_a_network_that_lives_on_the_simplex() -> None:
    network = MLP()
    network.domain = "simplex"  # type: ignore[attr-defined]
    with pytest.raises(CompositionError, match="live on the simplex, the retention's on the sphere"):
        ComposedRule("x", structure=network, bias=L2(), retention=OnSphere(), algorithm=GradientDescent())


def test_an_erase_by_the_retention_goes_with_everything_but_another_erase_and_a_link() -> None:
    made = rule(retention="directional")
    assert serves(made, Affine)
    assert serves(made, Linearised)
    assert {made.gates["write"].high, made.gates["erase"].high} == {0.5}
    assert {one.high for one in rule(bias="dot", retention="directional").gates.values()} == {0.9999, 1.0}
    kept = rule(retention="directional", algorithm={"name": "gd", "at": "kept", "reach": 2.0})
    assert (kept.gates["write"].high, kept.gates["erase"].high) == (2.0, 1.0)
    fixed = rule(retention="directional", algorithm={"name": "gd", "rate": 0.25})
    assert fixed.gates["erase"].high == 0.75
    for bias in BIASES:
        assert serves(rule("mlp", bias, "directional"), Linearised)
    column = rule(retention={"name": "joined", "parts": ["column", {"name": "directional", "decay": False}]})
    assert serves(column, Affine)
    assert column.offers(Affine).op == "affine_column"  # type: ignore[union-attr]
    for algorithm in ("momentum", "newton-schulz"):
        for form in (Affine, Linearised):
            assert isinstance(rule(retention="directional", algorithm=algorithm).offers(form), Refused)
    assert "one erase with two gates" in str(refusal(retention="directional", algorithm="dgd"))
    parts = ["lq", {"name": "directional", "decay": False}]
    assert "stores something else than weights" in str(refusal(retention={"name": "joined", "parts": parts}))
    assert "a smaller fixed rate" in str(refusal(retention="directional", algorithm={"name": "gd", "rate": 1.5}))


def test_beside_a_momentum_the_retention_erases_outside_of_it() -> None:
    """By hand: S takes the steps alone, M loses what lies along the key."""
    made = rule(retention="directional", algorithm="momentum")
    one, two = torch.tensor([[[1.0, 0.0]]]).double(), torch.tensor([[[0.6, 0.8]]]).double()
    m, s = torch.zeros(1, 1, 1, 2).double(), torch.zeros(1, 1, 1, 2).double()
    state = made.init_state(Params(matrix=torch.zeros(1, 1, 2).double()), 1)
    for k in (one, two, one):
        gates = {"retain": 0.9, "write": 0.2, "momentum": 0.5, "erase": 0.4}
        given = {name: torch.full((1, 1), value).double() for name, value in gates.items()}
        _, state = made.step(Params(), state, Tokens(q=k, k=k, v=torch.ones(1, 1, 1).double(), **given))
        key = k.unsqueeze(-2)
        error = m @ key.mT - 1.0
        s = 0.5 * s - 0.2 * error @ key
        m = 0.9 * m - 0.4 * (m @ key.mT) @ key + s
        torch.testing.assert_close(state.memory.matrix, m)
        torch.testing.assert_close(state.momentum.matrix, s)
