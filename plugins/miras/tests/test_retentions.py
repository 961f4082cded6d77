"""The MIRAS retentions: their links, their minimisation problems, the domains they promise."""

import pytest
import torch
from hecate_miras.bregman import Bregman, bounded
from hecate_miras.elastic import ElasticFTRL, ElasticProximal, soft
from hecate_miras.fdivergence import DIVERGENCES, FDivergence
from hecate_miras.links import norm, powered
from hecate_miras.lq import Lq
from hecate_miras.simplex import Simplex

from hecate_core.api import CompositionError, Retention, Tensor

LINKED = [
    Simplex(),
    Simplex(over="row", mass=3.0),
    Simplex(over="all", mass=4.0),
    Bregman(),
    Bregman(potential="entropy"),
    bounded(),
    ElasticFTRL(smooth=True),
    Lq(),
    Lq(link="dual"),
    Lq(link="exact"),
    Lq(q=1.5),
    Lq(q=1.5, link="dual"),
]


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*(shape or (2, 3, 4)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linked(retention: Retention) -> Tensor:
    assert retention.link is not None
    return retention.link(matrix())


@pytest.mark.parametrize("retention", LINKED, ids=lambda one: f"{type(one).__name__}-{vars(one).get('domain')}")
def test_gradient_of_the_link_agrees_with_finite_differences(retention: Retention) -> None:
    stored = matrix().clone()
    stored = torch.where(stored.abs() < 0.05, 0.05, stored).requires_grad_()  # away from infinite slopes at 0
    assert torch.autograd.gradcheck(retention.link, (stored,), fast_mode=True)


MAPS = [
    *(one.link for one in [*LINKED, ElasticFTRL()]),
    ElasticProximal().project,
    *(lambda stored, one=name: FDivergence(divergence=one).advance(stored.softmax(-2), stored) for name in DIVERGENCES),
]


@pytest.mark.parametrize("number", range(len(MAPS)))
def test_what_is_no_number_is_not_hidden(number: int) -> None:
    """A NaN that was stored shows in its matrix, and in no other."""
    stored = matrix().clone()
    stored[1, 2, 0] = torch.nan
    found = MAPS[number](stored)
    assert bool(found[1].isnan().any())
    assert bool(found[0].isfinite().all())


@pytest.mark.parametrize("retention", LINKED, ids=lambda one: f"{type(one).__name__}-{vars(one).get('domain')}")
def test_link_and_its_gradient_are_finite_at_zero(retention: Retention) -> None:
    stored = torch.zeros(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert retention.link is not None
    weights = retention.link(stored)
    (gradient,) = torch.autograd.grad(weights.sum(), stored)
    assert torch.isfinite(weights).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("retention", LINKED, ids=lambda one: f"{type(one).__name__}-{vars(one).get('domain')}")
def test_inverse_finds_what_links_to_the_wanted_weights(retention: Retention) -> None:
    if retention.inverse is None:
        pytest.skip("the start is what is stored")
    assert retention.link is not None
    assert torch.allclose(retention.link(retention.inverse(matrix())), matrix(), rtol=1e-9, atol=1e-11)


def test_simplex_columns_rows_and_whole_hold_their_mass() -> None:
    one = torch.ones((), dtype=torch.float64)
    assert torch.allclose(linked(Simplex(mass=2.0)).sum(-2), 2.0 * one)
    assert torch.allclose(linked(Simplex(mass=2.0, over="row")).sum(-1), 2.0 * one)
    assert torch.allclose(linked(Simplex(mass=2.0, over="all")).sum((-2, -1)), 2.0 * one)


def test_simplex_logits_are_the_recurrence_of_weights() -> None:
    """W <- c softmax(a log W - g), for any mass, is L <- a L - g with W = c softmax(L)."""
    retention, logits = Simplex(mass=3.0), matrix()
    assert retention.link is not None
    weights = retention.link(logits)
    for step in range(4):
        g, keep = matrix(seed=step + 1), 0.7
        logits = keep * logits - g
        weights = 3.0 * torch.softmax(keep * weights.log() - g, -2)
        assert torch.allclose(retention.link(logits), weights, rtol=1e-12)


def test_simplex_without_writes_keeps_or_becomes_uniform() -> None:
    retention = Simplex()
    assert retention.link is not None
    assert torch.equal(retention.link(0.0 * matrix()), torch.full((2, 3, 4), 1.0 / 3.0, dtype=torch.float64))
    assert torch.equal(retention.link(1.0 * matrix()), linked(retention))


@pytest.mark.parametrize(
    ("potential", "dual", "inside"),
    [
        ("entropy", torch.log, lambda w: (w > 0.0).all()),
        ("logistic", torch.logit, lambda w: ((w > 0.0) & (w < 1.0)).all()),
        ("hypentropy", lambda w: torch.asinh(w / 0.1), lambda w: torch.isfinite(w).all()),
    ],
)
def test_bregman_is_mirror_descent(potential: str, dual: object, inside: object) -> None:
    """Stationarity of <g, W> + D_F(W, W'): F'(W) = F'(W') - g."""
    retention = Bregman(potential=potential)
    assert retention.link is not None
    before, g = retention.link(matrix()), matrix(seed=1)
    after = retention.link(matrix() - g)
    assert inside(after)  # type: ignore[operator]
    assert torch.allclose(dual(after), dual(before) - g, atol=1e-9)  # type: ignore[operator]


def test_square_potential_and_two_norm_are_plain_decay() -> None:
    for retention in (Bregman(potential="square"), Lq(q=2.0), Lq(q=2.0, link="dual"), Lq(q=2.0, link="exact")):
        assert retention.link is None
        assert retention.inverse is None


def test_soft_threshold_is_the_proximal_map_of_the_absolute_value() -> None:
    a, grid = matrix(), torch.linspace(-4, 4, 80001, dtype=torch.float64)
    best = grid[(0.5 * (grid - a.flatten()[:, None]) ** 2 + 0.3 * grid.abs()).argmin(-1)].view_as(a)
    assert torch.allclose(soft(a, 0.3), best, atol=2e-4)
    assert (soft(a, 0.3) == 0.0).any()


def test_elastic_ftrl_keeps_small_evidence_and_proximal_loses_it() -> None:
    ftrl, proximal = ElasticFTRL(threshold=0.5), ElasticProximal(threshold=0.5)
    assert ftrl.link is not None
    assert proximal.project is not None
    once = torch.full((1, 1), 0.4, dtype=torch.float64)
    assert ftrl.link(once).item() == 0.0
    assert ftrl.link(once + once).item() == pytest.approx(0.3)
    assert proximal.project(proximal.project(once) + once).item() == 0.0
    assert torch.allclose(ElasticFTRL(threshold=0.0).link(matrix()), matrix())  # type: ignore[misc]


@pytest.mark.parametrize("q", [1.5, 3.0, 4.0])
def test_dual_and_exact_links_undo_each_other(q: float) -> None:
    dual, exact = Lq(q=q, link="dual"), Lq(q=q, link="exact")
    assert dual.link is not None
    assert exact.link is not None
    assert torch.allclose(dual.link(exact.link(matrix())), matrix(), rtol=1e-10)
    assert torch.allclose(exact.link(dual.link(matrix())), matrix(), rtol=1e-10)


def test_dual_link_minimises_the_norm_penalty_it_stands_for() -> None:
    """W = argmin 1/2 |W|_{4/3}^2 - <A, W>: the gradient of the penalty at W is A."""
    a = matrix(1, 3, 4)
    w = powered(a, 4.0).requires_grad_()
    penalty = 0.5 * w.abs().pow(4.0 / 3.0).sum().pow(2.0 / (4.0 / 3.0))
    (gradient,) = torch.autograd.grad(penalty, w)
    assert torch.allclose(gradient, a, rtol=1e-10)


def test_degrees_of_the_links() -> None:
    for link, degree in (("printed", -1.0), ("dual", 1.0), ("exact", 1.0)):
        of = Lq(q=4.0, link=link).link
        assert of is not None
        assert torch.allclose(of(2.0 * matrix()), 2.0**degree * of(matrix()), rtol=1e-12)


def test_norm_does_not_overflow() -> None:
    assert norm(torch.full((1, 2, 2), 1e30), 4.0).item() == pytest.approx(1e30 * 4**0.25, rel=1e-6)


@pytest.mark.parametrize("divergence", sorted(DIVERGENCES))
def test_f_divergence_solves_its_minimisation_problem(divergence: str) -> None:
    """Columns keep their mass, and f'(W / W') + g is the same number wherever a weight is not 0."""
    retention = FDivergence(divergence=divergence, mass=2.0)
    assert retention.inverse is not None
    before, g = retention.inverse(matrix(2, 5, 3)), 0.8 * matrix(2, 5, 3, seed=1)
    after = retention.advance(before, -g)
    assert torch.allclose(after.sum(-2), torch.full((2, 3), 2.0, dtype=torch.float64), rtol=1e-12)
    assert (after >= 0.0).all()
    ratio = after / before
    slope = {
        "kl": lambda t: t.log() + 1.0,
        "chi2": lambda t: 2.0 * (t - 1.0),
        "hellinger": lambda t: 1.0 - t.rsqrt(),
        "reverse-kl": lambda t: -1.0 / t,
    }[divergence](ratio)
    multiplier = (slope + g).where(after > 0.0, torch.nan)
    spread = multiplier.nan_to_num(-1e9).amax(-2) - multiplier.nan_to_num(1e9).amin(-2)
    assert spread.abs().max() < 1e-8


@pytest.mark.parametrize("divergence", sorted(DIVERGENCES))
def test_f_divergence_has_the_derivative_of_its_implicit_solution(divergence: str) -> None:
    retention = FDivergence(divergence=divergence)
    assert retention.inverse is not None
    before = retention.inverse(matrix(1, 4, 2)).requires_grad_()
    move = (0.3 * matrix(1, 4, 2, seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(retention.advance, (before, move), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 10.0, 40.0])
@pytest.mark.parametrize("divergence", sorted(DIVERGENCES))
def test_f_divergence_keeps_its_mass_in_float32(divergence: str, scale: float) -> None:
    """A matrix that learns under l2 with write 1, from values of any size: every step lands beside a pole."""
    retention, random = FDivergence(divergence=divergence), torch.Generator().manual_seed(0)
    k, v = (torch.randn(64, 16, 1, generator=random) for _ in "kv")
    k, stored = k / k.norm(dim=1, keepdim=True), torch.full((16, 16), 1.0 / 16.0)
    for t in range(64):
        stored = retention.advance(stored, (scale * v[t] - stored @ k[t]) @ k[t].mT)
        assert stored.dtype == torch.float32
        assert bool(stored.isfinite().all()), t
        assert float((stored.sum(0) - 1.0).abs().max()) <= 1e-5, t
    assert retention.advance(stored.bfloat16(), stored.bfloat16()).dtype == torch.bfloat16


def test_kl_divergence_is_kl_retention_without_decay() -> None:
    retention, logits, g = FDivergence(divergence="kl"), matrix(), matrix(seed=1)
    assert retention.inverse is not None
    simplex = Simplex(decay=False)
    assert simplex.link is not None
    assert torch.allclose(retention.advance(retention.inverse(logits), -g), simplex.link(logits - g), rtol=1e-11)


def test_wrong_options_are_refused() -> None:
    for make in (
        lambda: Simplex(over="columns"),
        lambda: Simplex(mass=0.0),
        lambda: Bregman(potential="cube"),
        lambda: Bregman(scale=0.0),
        lambda: Lq(q=1.0),
        lambda: Lq(link="smooth"),
        lambda: ElasticFTRL(threshold=-1.0),
        lambda: ElasticProximal(threshold=-1.0),
        lambda: FDivergence(divergence="renyi"),
        lambda: FDivergence(mass=-1.0),
    ):
        with pytest.raises(CompositionError, match="expected"):
            make()
    with pytest.raises(CompositionError, match="forgets the size"):
        Lq(q=3.0)
