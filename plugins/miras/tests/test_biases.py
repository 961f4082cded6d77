"""The MIRAS losses: cotangents are gradients of their losses, outer gradients agree with finite differences."""

import math

import pytest
import torch
from hecate_miras.huber import Huber
from hecate_miras.kl_loss import KLLoss
from hecate_miras.l1 import SmoothL1
from hecate_miras.lp import Lp
from hecate_miras.robust import RobustL2

from hecate_core.api import AttentionalBias, CompositionError, Tensor, Tokens

DELTA = 0.7


def huber_coordinate(e: Tensor) -> Tensor:
    return torch.where(e.abs() <= DELTA, 0.5 * e * e, DELTA * (e.abs() - 0.5 * DELTA)).sum()


def huber_norm(e: Tensor) -> Tensor:
    n = e.norm(dim=-1)
    return torch.where(n <= DELTA, 0.5 * n * n, DELTA * (n - 0.5 * DELTA)).sum()


def robust(e: Tensor) -> Tensor:
    """The largest 1/2 |e + dv|^2 over |dv| <= 0.3, reached along e."""
    return 0.5 * (e.norm(dim=-1) + 0.3).square().sum()


# (bias, its loss as a function of the error, the tolerance that its smoothing needs)
LOSSES = [
    (SmoothL1(sharpness=4.0), lambda e: (torch.log(torch.cosh(4.0 * e)) / 4.0).sum(), 1e-12),
    (Lp(p=3.0, smooth=False), lambda e: e.abs().pow(3.0).sum(), 1e-12),
    (Lp(p=1.5, smooth=False), lambda e: e.abs().pow(1.5).sum(), 1e-12),
    (Lp(p=2.0, smooth=False), lambda e: e.abs().pow(2.0).sum(), 1e-12),
    (Lp(p=3.0, sharpness=1e4, eps=1e-14), lambda e: e.abs().pow(3.0).sum(), 1e-9),
    (Huber(form="coordinate"), huber_coordinate, 1e-12),
    (Huber(form="norm"), huber_norm, 1e-12),
    (RobustL2(radius=0.3, eps=1e-9), robust, 1e-9),
]


def drawn() -> tuple[Tensor, Tensor, Tokens]:
    g = torch.Generator().manual_seed(0)
    prediction, v = (torch.randn(2, 2, 5, 3, generator=g, dtype=torch.float64) for _ in range(2))
    return prediction, v, Tokens(threshold=torch.full((2, 2, 5), DELTA, dtype=torch.float64))


@pytest.mark.parametrize(("bias", "loss", "tolerance"), LOSSES)
def test_cotangent_is_the_gradient_of_the_loss(bias: AttentionalBias, loss: object, tolerance: float) -> None:
    prediction, v, tokens = drawn()
    e = (prediction - v).requires_grad_()
    (expected,) = torch.autograd.grad(loss(e), e)  # type: ignore[operator]
    assert torch.allclose(bias.cotangent(prediction, v, tokens), expected, rtol=tolerance, atol=tolerance)


def test_kl_cotangent_is_the_gradient_of_the_divergence() -> None:
    prediction, v, tokens = drawn()
    prediction.requires_grad_()
    wanted = torch.softmax(v, -1)
    loss = (wanted * (wanted.log() - torch.log_softmax(prediction, -1))).sum()
    (expected,) = torch.autograd.grad(loss, prediction)
    assert torch.allclose(KLLoss().cotangent(prediction, v, tokens), expected, atol=1e-12)


BIASES = [
    SmoothL1(),
    Lp(),
    Lp(p=1.5),
    Lp(smooth=False),
    Huber(),
    Huber(form="coordinate"),
    Huber(form="norm"),
    Huber(unit="rms"),
    RobustL2(),
    KLLoss(),
]


@pytest.mark.parametrize("bias", BIASES, ids=lambda bias: f"{type(bias).__name__}-{vars(bias)}")
def test_outer_gradients_agree_with_finite_differences(bias: AttentionalBias) -> None:
    prediction, v, _ = drawn()
    g = torch.Generator().manual_seed(1)
    threshold = (0.4 + torch.rand(2, 2, 5, generator=g, dtype=torch.float64)).requires_grad_()
    prediction, v = prediction.requires_grad_(), v.requires_grad_()

    def cotangent(prediction: Tensor, v: Tensor, threshold: Tensor) -> Tensor:
        return bias.cotangent(prediction, v, Tokens(threshold=threshold))

    assert torch.autograd.gradcheck(cotangent, (prediction, v, threshold), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("bias", BIASES, ids=lambda bias: f"{type(bias).__name__}-{vars(bias)}")
def test_a_value_that_is_no_number_is_not_hidden(bias: AttentionalBias) -> None:
    prediction, v, tokens = drawn()
    v[0, 0, 1, 2] = math.nan
    found = bias.cotangent(prediction, v, tokens)
    assert bool(found[0, 0, 1].isnan().any())
    assert bool(found[1].isfinite().all())


@pytest.mark.parametrize("bias", BIASES, ids=lambda bias: f"{type(bias).__name__}-{vars(bias)}")
def test_perfect_recall_pulls_nothing_and_has_finite_gradients(bias: AttentionalBias) -> None:
    v = torch.randn(1, 1, 2, 3, dtype=torch.float64)
    prediction = v.clone().requires_grad_()
    threshold = torch.ones(1, 1, 2, dtype=torch.float64, requires_grad=True)
    pull = bias.cotangent(prediction, v, Tokens(threshold=threshold))
    assert torch.equal(pull, torch.zeros_like(pull))
    gradients = torch.autograd.grad(pull.sum() + 0.0 * threshold.sum(), (prediction, threshold))
    assert all(torch.isfinite(one).all() for one in gradients)


@pytest.mark.parametrize("form", ["switch", "norm"])
def test_a_threshold_of_the_root_mean_square_does_not_know_the_width(form: str) -> None:
    """Errors of equal entries: cut at width 4 as at width 9, and as by the norm at root V times as much."""
    for width in (4, 9):
        e = torch.full((1, 1, 2, width), 1.5, dtype=torch.float64)
        e[:, :, 1] = 0.5
        one = Tokens(threshold=torch.ones(1, 1, 2, dtype=torch.float64))
        pull = Huber(form=form, unit="rms").cotangent(e, torch.zeros_like(e), one)
        assert torch.equal(pull[:, :, 1], e[:, :, 1])
        length = 1.0 if form == "norm" else width**0.5
        assert torch.allclose(pull[:, :, 0], torch.full_like(e[:, :, 0], length), atol=1e-9)
        wide = one.map(lambda gate, n=width: gate * n**0.5)  # type: ignore[misc]
        assert torch.equal(pull, Huber(form=form).cotangent(e, torch.zeros_like(e), wide))


def test_switch_is_the_error_up_to_the_threshold_and_bounded_beyond() -> None:
    e = torch.tensor([[[[0.3, 0.4], [3.0, -4.0]]]], dtype=torch.float64)
    tokens = Tokens(threshold=torch.full((1, 1, 2), 0.5, dtype=torch.float64))
    pull = Huber(sharpness=50.0).cotangent(e, torch.zeros_like(e), tokens)
    assert torch.allclose(pull, torch.tensor([[[[0.3, 0.4], [0.5, -0.5]]]], dtype=torch.float64))


@pytest.mark.parametrize("form", ["switch", "coordinate", "norm"])
def test_huber_above_every_error_is_the_error_bit_for_bit(form: str) -> None:
    prediction, v, _ = drawn()
    tokens = Tokens(threshold=torch.full((2, 2, 5), 1e3, dtype=torch.float64))
    assert torch.equal(Huber(form=form).cotangent(prediction, v, tokens), prediction - v)


def test_norm_huber_does_not_see_a_rotation() -> None:
    prediction, v, tokens = drawn()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turned = Huber(form="norm").cotangent(prediction @ turn, v @ turn, tokens)
    assert torch.allclose(turned, Huber(form="norm").cotangent(prediction, v, tokens) @ turn, atol=1e-12)


def test_exact_square_is_affine_and_nothing_else_here_is() -> None:
    assert Lp(p=2.0, smooth=False).affine == (2.0, 2.0)
    assert all(bias.affine is None for bias in BIASES)


def test_wrong_options_are_refused() -> None:
    for make in (
        lambda: Lp(p=0.5),
        lambda: Lp(eps=0.0),
        lambda: SmoothL1(sharpness=0.0),
        lambda: Huber(form="square"),
        lambda: Huber(unit="mean"),
        lambda: Huber(form="coordinate", unit="rms"),
        lambda: RobustL2(radius=-1.0),
        lambda: Lp(p=math.nan),
    ):
        with pytest.raises(CompositionError, match="expected"):
            make()
