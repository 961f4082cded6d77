"""DGD as an outer optimizer: the proximal step of its samples, and what it watches for that."""

import pytest
import torch
from hecate_optimizers.dgd import DGD
from torch import Tensor, nn

from hecate_core.api import LevelOptimizer
from hecate_core.errors import InputError
from hecate_core.levels import Conductor
from hecate_core.optimizers import SGD

EXACT = 1e-12  # float64, the same sums in another order


def drive(optimizer: LevelOptimizer, grads: list[dict[str, Tensor]]) -> None:
    conductor = Conductor()
    for grad in grads:
        optimizer.step(grad, conductor.pulse())
        conductor.advance()


def layer_step(x: Tensor, target: Tensor, lr: float, erase: float = 1.0) -> tuple[nn.Linear, Tensor, Tensor]:
    """A layer after one step, its weight before, and dL/dy for each row; the loss is a sum of squares over rows."""
    torch.manual_seed(1)
    layer = nn.Linear(x.shape[1], target.shape[1], bias=False).double()
    before = layer.weight.detach().clone()
    optimizer = DGD(layer, lr=lr, erase=erase)
    y = layer(x)
    (grad,) = torch.autograd.grad(0.5 * (y - target).square().sum() / len(x), [layer.weight])
    drive(optimizer, [{"weight": grad}])
    return layer, before, (y - target).detach()


@pytest.mark.parametrize("size", [1.0, 2.0])
def test_dgd_solves_the_proximal_problem_of_one_sample(size: float) -> None:
    random, lr = torch.Generator().manual_seed(2), 0.7
    x = torch.randn(1, 4, generator=random, dtype=torch.float64)
    x = size * x / x.norm()
    layer, before, slope = layer_step(x, torch.randn(1, 3, generator=random, dtype=torch.float64), lr)
    after = layer.weight.detach()
    stationary = (after @ x.mT + slope.mT) @ x + (after - before) / lr  # of 1/2 |W x - u|^2 + 1/(2 lr) |W - W'|^2
    assert float(stationary.abs().max()) < EXACT
    printed = lr / (1 + lr)  # right for unit inputs alone
    guess = before - printed * (before @ x.mT + slope.mT) @ x
    assert torch.allclose(after, guess) == (size == 1.0)


def test_dgd_of_a_batch_takes_the_mean_over_rows() -> None:
    random = torch.Generator().manual_seed(3)
    x, target = (torch.randn(9, n, generator=random, dtype=torch.float64) for n in (4, 2))
    layer, before, slope = layer_step(x, target, 0.5, erase=0.6)
    c, g = x.mT @ x / 9, slope.mT @ x / 9
    eta = 0.5 / (1 + 0.5 * 0.6 * c.trace())
    assert torch.allclose(layer.weight, before - eta * (0.6 * before @ c + g), atol=EXACT)


def test_dgd_forgets_inputs_once_they_were_used() -> None:
    """The second step is that of a fresh optimizer on the same layer."""
    layers, x = [nn.Linear(3, 2, bias=False).double() for _ in range(2)], normal_rows(6)
    layers[1].load_state_dict(layers[0].state_dict())
    carried = DGD(layers[0], lr=0.5)
    for part in (x[:2], x[2:]):
        for layer in layers:
            optimizer = carried if layer is layers[0] else DGD(layer, lr=0.5)
            (grad,) = torch.autograd.grad(layer(part).square().mean(), [layer.weight])
            optimizer.step({"weight": grad}, Conductor().pulse())
    assert torch.equal(layers[0].weight, layers[1].weight)


def normal_rows(count: int) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def chain() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def test_dgd_without_erase_is_plain_descent_and_watches_nothing() -> None:
    one, two = chain(), chain()
    grads = [{n: torch.randn_like(p) for n, p in one.named_parameters()} for _ in range(3)]
    optimizer = DGD(one, lr=0.1, erase=0.0)
    drive(optimizer, grads)
    drive(SGD(two, lr=0.1), grads)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert set(optimizer.state) == {"buffer"}


def test_dgd_sees_what_is_recorded_and_nothing_else() -> None:
    model = chain()
    optimizer = DGD(model)
    with torch.no_grad():
        model(torch.ones(5, 3).double())
    assert float(optimizer.state["count"]["0.weight"]) == 0
    model(torch.ones(5, 3).double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.full((1, 3), 1.01).double())
    assert float(optimizer.state["count"]["2.weight"]) == 6
    assert torch.allclose(optimizer.state["inputs"]["0.weight"], torch.full((3, 3), 5 + 1.01**2).double())
    del optimizer
    assert not any(layer._forward_pre_hooks for layer in model)


def test_dgd_collects_inputs_while_its_level_rests() -> None:
    """Two steps of a level of period 2 are one step on both batches, erase included."""
    slow, plain = chain(), chain()
    for part in slow:
        part.hecate_level = 0  # type: ignore[assignment]
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    optimizer, conductor = DGD(slow, levels=[{"update_period": 2, "reduce": "mean"}]), Conductor([2], step=1)
    conductor.levels = optimizer.levels
    for batch in (x[:0], x):  # step 1 rests, step 2 fires
        loss = sum((slow(one).square().mean() for one in batch), torch.zeros(()).double())
        grads = torch.autograd.grad(loss, list(slow.parameters()), allow_unused=True) if len(batch) else [None] * 4
        named = zip(slow.named_parameters(), grads, strict=True)
        optimizer.step({n: torch.zeros_like(p) if g is None else g for (n, p), g in named}, conductor.pulse())
        conductor.advance()
    whole = DGD(plain)
    loss = sum((plain(one).square().mean() for one in x), torch.zeros(()).double()) / 2
    grads = torch.autograd.grad(loss, list(plain.parameters()))
    whole.step({n: g for (n, _), g in zip(plain.named_parameters(), grads, strict=True)}, Conductor().pulse())
    assert all(torch.allclose(a, b, atol=EXACT) for a, b in zip(slow.parameters(), plain.parameters(), strict=True))


def test_dgd_wants_the_model() -> None:
    with pytest.raises(InputError, match="expected the model"):
        DGD(chain().named_parameters())
