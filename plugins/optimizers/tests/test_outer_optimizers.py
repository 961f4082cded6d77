"""M3, Muon, AdaMuon and delta momentum against loops by hand, torch.optim and their limits."""

from typing import Any

import pytest
import torch
from hecate_optimizers.adamuon import AdaMuon
from hecate_optimizers.delta_momentum import DeltaMomentum
from hecate_optimizers.m3 import M3
from hecate_optimizers.muon import Muon
from hecate_optimizers.orthogonal import orthogonal
from torch import Tensor, nn

from hecate_core.api import AdamW, LevelOptimizer
from hecate_core.levels import Conductor
from hecate_core.optimizers import SGD

EXACT = 1e-12  # float64, the same sums in another order
SHAPES = {"square": (4, 4), "tall": (6, 3), "stack": (2, 3, 5), "vector": (7,)}


def gradients(steps: int, *names: str, scale: float = 1.0, seed: int = 0) -> list[dict[str, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    chosen = names or tuple(SHAPES)
    return [
        {name: scale * torch.randn(SHAPES[name], generator=random, dtype=torch.float64) for name in chosen}
        for _ in range(steps)
    ]


def run(make: Any, grads: list[dict[str, Tensor]], **options: Any) -> dict[str, Tensor]:
    """Parameters, ones at first, after these steps without clipping."""
    theta = {name: torch.ones_like(one).requires_grad_() for name, one in grads[0].items()}
    drive(make(list(theta.items()), clip=None, **options), grads)
    return {name: one.detach() for name, one in theta.items()}


def drive(optimizer: LevelOptimizer, grads: list[dict[str, Tensor]]) -> None:
    conductor = Conductor(optimizer.levels)
    for grad in grads:
        optimizer.step(grad, conductor.pulse())
        conductor.advance()


def close(one: dict[str, Tensor], two: dict[str, Tensor], bound: float = EXACT) -> bool:
    return all(torch.allclose(one[name], two[name], rtol=bound, atol=bound) for name in one)


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


# --- Newton-Schulz and Muon --------------------------------------------------------------------------------------


def test_newton_schulz_brings_singular_values_into_its_band() -> None:
    found = torch.linalg.svdvals(orthogonal(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))))
    assert float(found.min()) > 0.3
    assert float(found.max()) < 1.25
    assert orthogonal(torch.zeros(3, 2)).abs().max() == 0
    tall = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.allclose(orthogonal(tall), orthogonal(tall.mT).mT)
    assert torch.allclose(orthogonal(-1e6 * tall), -orthogonal(tall), atol=1e-6)


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_bit_identical_to_torch(adjust: str, nesterov: bool) -> None:
    grads = [{name: one.float() for name, one in step.items()} for step in gradients(12, "square", "tall")]
    found = run(Muon, grads, lr=0.1, adjust=adjust, nesterov=nesterov)
    theirs = {name: torch.ones_like(one).requires_grad_() for name, one in grads[0].items()}
    reference = torch.optim.Muon(list(theirs.values()), lr=0.1, adjust_lr_fn=adjust, nesterov=nesterov)
    for grad in grads:
        for name, one in theirs.items():
            one.grad = grad[name].clone()
        reference.step()
    assert same(found, {name: one.detach() for name, one in theirs.items()})


def test_a_stack_of_matrices_moves_as_each_of_them() -> None:
    """torch takes single matrices only, and orthogonalises in bfloat16: equal to its digits."""
    grads = gradients(5, "stack")
    whole = run(Muon, grads, lr=0.1)["stack"]
    for i in range(2):
        single = run(Muon, [{"stack": one["stack"][i]} for one in grads], lr=0.1)["stack"]
        assert torch.allclose(whole[i], single, atol=0.02)
        assert not torch.allclose(whole[i], torch.ones_like(single), atol=0.05)


@pytest.mark.parametrize("make", [Muon, M3, AdaMuon])
def test_vectors_and_what_is_set_apart_move_by_adamw(make: Any) -> None:
    grads = gradients(6, "square", "vector")
    options = {"lr": 0.1, "betas": (0.8, 0.9, 0.95)} if make is M3 else {"lr": 0.1, "betas": (0.8, 0.9)}
    found = run(make, grads, weight_decay=0.1, adamw=("square",), **options)
    assert same(found, run(AdamW, grads, lr=0.1, betas=(0.8, 0.9), weight_decay=0.1))
    moved = run(make, grads, weight_decay=0.1, **options)
    assert torch.equal(moved["vector"], found["vector"])
    assert not torch.allclose(moved["square"], found["square"])


# --- M3 ----------------------------------------------------------------------------------------------------------


def literal(grads: list[Tensor], lr: float, betas: tuple[float, float, float], slow: float, period: int) -> Tensor:
    """Algorithm 1 as printed, two nested loops."""
    theta = torch.ones_like(grads[0])
    m1, m2, v = (torch.zeros_like(theta) for _ in range(3))
    for k in range(0, len(grads), period):
        m2 = m2 + betas[2] * sum(grads[max(k - period, 0) : k], torch.zeros_like(m2))
        o2 = orthogonal(m2)
        for g in grads[k : k + period]:
            m1, v = m1 + betas[0] * g, v + betas[1] * g * g
            theta = theta - lr * (orthogonal(m1) + slow * o2) / (v.sqrt() + 1e-8)
    return theta


@pytest.mark.parametrize("period", [1, 3, 4, 50])
def test_m3_literal_is_the_printed_algorithm(period: int) -> None:
    grads, betas = gradients(11, "tall"), (0.9, 0.5, 0.7)
    found = run(M3, grads, lr=0.1, mode="literal", betas=betas, slow=0.4, period=period)
    assert close(found, {"tall": literal([one["tall"] for one in grads], 0.1, betas, 0.4, period)})


@pytest.mark.parametrize("mode", ["ema", "noV"])
def test_m3_averages_by_hand(mode: str) -> None:
    grads, theta, (b1, b2, b3), period = gradients(9, "tall"), torch.ones(6, 3).double(), (0.9, 0.5, 0.7), 4
    m1, m2, v = (torch.zeros_like(theta) for _ in range(3))
    for n, grad in enumerate(grads, 1):
        g = grad["tall"]
        if n in (5, 9):
            m2 = b3 * m2 + (1 - b3) * sum(one["tall"] for one in grads[n - 5 : n - 1]) / period
        m1, v = b1 * m1 + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        if mode == "ema":
            step = (orthogonal(m1) + 0.4 * orthogonal(m2)) / ((v / (1 - b2**n)).sqrt() + 1e-8)
            step = step / step.square().mean().sqrt()
        else:
            step = orthogonal(m1) * m1.norm() + 0.4 * orthogonal(m2) * m2.norm()
        theta = 0.99 * theta - 0.1 * step
    options: dict[str, Any] = {"mode": mode, "betas": (b1, b2, b3), "slow": 0.4, "period": period}
    assert close(run(M3, grads, lr=0.1, weight_decay=0.1, **options), {"tall": theta})


def test_a_rate_is_the_size_of_a_step_whatever_the_loss_is_scaled_by() -> None:
    """Of `ema`; `literal` steps grow and `noV` steps shrink as the loss does: the reason for the default."""
    sizes: dict[str, list[float]] = {}
    for mode in ("ema", "literal", "noV"):
        for scale in (1.0, 1e-3):
            moved = run(M3, gradients(1, "square", scale=scale), lr=0.01, mode=mode)["square"] - 1.0
            sizes.setdefault(mode, []).append(float(moved.square().mean().sqrt()))
    assert sizes["ema"] == [pytest.approx(0.01, rel=1e-4)] * 2
    assert sizes["literal"][1] == pytest.approx(1000 * sizes["literal"][0], rel=1e-2)
    assert sizes["noV"][1] == pytest.approx(1e-3 * sizes["noV"][0], rel=1e-2)


def test_m3_without_a_slow_step_is_adamuon() -> None:
    grads = gradients(7)
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1}
    assert close(run(M3, grads, slow=0.0, **options), run(AdaMuon, grads, **options))


def test_a_period_counts_fires_of_the_own_level() -> None:
    """A level that fires every third step sees periods of sums."""
    torch.manual_seed(0)
    slow, plain = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
    plain.load_state_dict(slow.state_dict())
    slow.hecate_level = 0  # type: ignore[assignment]
    random = torch.Generator().manual_seed(4)
    grads = [
        {n: torch.randn(p.shape, generator=random, dtype=p.dtype) for n, p in slow.named_parameters()}
        for _ in range(16)
    ]
    drive(M3(slow, levels=[3], period=2, clip=None, lr=0.1), grads)
    sums = [grads[0]] + [
        {n: grads[i][n] + grads[i + 1][n] + grads[i + 2][n] for n in grads[0]} for i in range(1, 16, 3)
    ]
    drive(M3(plain, period=2, clip=None, lr=0.1), sums)
    assert torch.allclose(slow.weight, plain.weight, atol=EXACT)


# --- AdaMuon -----------------------------------------------------------------------------------------------------


def test_adamuon_without_steps_is_adamw_bit_for_bit() -> None:
    grads = gradients(9)
    assert same(run(AdaMuon, grads, lr=0.1, steps=0), run(AdamW, grads, lr=0.1))


@pytest.mark.parametrize("square", ["gradient", "update"])
def test_adamuon_by_hand(square: str) -> None:
    grads, theta = gradients(6, "tall"), torch.ones(6, 3).double()
    m, s = torch.zeros_like(theta), torch.zeros_like(theta)
    for n, grad in enumerate(grads, 1):
        m = 0.9 * m + 0.1 * grad["tall"]
        o = orthogonal(m)
        s = 0.99 * s + 0.01 * (grad["tall"] if square == "gradient" else o) ** 2
        theta = theta - 0.1 * o / ((s / (1 - 0.99**n)).sqrt() + 1e-8)
    options: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 0.0, "size": "printed", "square": square}
    assert close(run(AdaMuon, grads, lr=0.1, **options), {"tall": theta})


# --- delta momentum ----------------------------------------------------------------------------------------------


def test_delta_momentum_without_erase_is_sgd_with_momentum() -> None:
    grads = gradients(9)
    sgd = run(SGD, grads, lr=0.1, momentum=0.9, weight_decay=0.01)
    options: dict[str, Any] = {"lr": 0.1, "erase": 0.0, "weight_decay": 0.01}
    assert same(run(DeltaMomentum, grads, rate="outside", **options), sgd)
    assert close(run(DeltaMomentum, grads, rate="inside", **options), sgd)


@pytest.mark.parametrize("rate", ["inside", "outside"])
def test_delta_momentum_by_hand(rate: str) -> None:
    grads, expected = gradients(6), {}
    for name in SHAPES:
        theta, s = torch.ones(SHAPES[name]).double(), torch.zeros(SHAPES[name]).double()
        for grad in grads:
            g = grad[name]
            n = (g if g.dim() > 1 else g[None]).clone()
            n = n / n.flatten(-2).norm(dim=-1)[..., None, None]
            bracket = 0.8 * torch.eye(n.shape[-1]).double() - 0.7 * n.mT @ n
            s = (s @ bracket if g.dim() > 1 else s @ bracket.squeeze(0)) + (0.1 * g if rate == "inside" else g)
            theta = theta - (s if rate == "inside" else 0.1 * s)
        expected[name] = theta
    assert close(run(DeltaMomentum, grads, lr=0.1, momentum=0.8, erase=0.7, rate=rate), expected)


def test_huge_gradients_cannot_make_the_momentum_grow() -> None:
    """With the raw G^T G the bracket's eigenvalue would be 0.99 - |G|^2: the momentum would explode in a few steps."""
    theta = torch.zeros(3, 3, requires_grad=True)
    optimizer = DeltaMomentum([("theta", theta)], lr=1.0, momentum=0.99)
    drive(optimizer, [{"theta": 100.0 * torch.ones(3, 3)}] * 200)
    assert float(optimizer.state["momentum"]["theta"].abs().max()) < 110.0
