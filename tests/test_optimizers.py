"""Optimizers that know levels, against torch.optim and against arithmetic done by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hecate_core.errors import CheckpointError, CompositionError, DivergedError, InputError
from hecate_core.levels import Conductor, LevelSpec, Pulse
from hecate_core.optimizers import SGD, AdamW, LevelOptimizer, level_of_parameters
from hecate_core.registry import registry

every_optimizer = pytest.mark.parametrize("name", registry().names("optimizer"))

Grads = dict[str, Tensor]


class Model(nn.Module):
    """Two linear maps in one chain; each may belong to a level."""

    def __init__(self, *levels: int | None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.parts = nn.ModuleList(nn.Linear(4, 4, dtype=dtype) for _ in levels)
        for part, level in zip(self.parts, levels, strict=True):
            if level is not None:
                part.hecate_level = level  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = torch.tanh(part(x))
        return x

    def copy(self) -> Grads:
        return {name: parameter.detach().clone() for name, parameter in self.named_parameters()}


def gradients(model: Model, steps: int, dtype: torch.dtype = torch.float32) -> list[Grads]:
    generator = torch.Generator().manual_seed(11)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return [{n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()} for _ in range(steps)]


def run(model: Model, optimizer: LevelOptimizer, grads: list[Grads], conductor: Conductor) -> None:
    for grad in grads:
        optimizer.step(grad, conductor.pulse())
        conductor.advance()


def made(name: str, model: Model, **options: Any) -> LevelOptimizer:
    """A registered optimizer by name."""
    optimizer: LevelOptimizer = registry().create(
        "optimizer", {"name": name, **options}, named_parameters=model, levels=[1, 4]
    )
    return optimizer


def learn(model: Model, optimizer: LevelOptimizer, start: int, stop: int) -> None:
    """Steps `start` to `stop` of a small regression, with forward and backward passes: step t has its own batch."""
    conductor = Conductor(optimizer.levels, step=start)
    for step in range(start, stop):
        x, target = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - target).square().mean()
        grads = torch.autograd.grad(loss, list(optimizer.parameters.values()))
        optimizer.step(dict(zip(optimizer.parameters, grads, strict=True)), conductor.pulse())
        conductor.advance()


def equal(one: Grads, two: Grads) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


TORCH: list[tuple[Callable[..., LevelOptimizer], Any, dict[str, Any]]] = [
    (SGD, torch.optim.SGD, {"lr": 0.1}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (AdamW, torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    (AdamW, torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.0, "betas": (0.8, 0.95), "eps": 1e-6}),
]


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("ours", "theirs", "options"), TORCH)
def test_period_one_is_bit_identical_to_torch(
    ours: Any, theirs: Any, options: dict[str, Any], dtype: torch.dtype, clip: float | None
) -> None:
    mine, other = Model(0, 1, dtype=dtype), Model(0, 1, dtype=dtype)
    grads = gradients(mine, 25, dtype)
    run(mine, ours(mine, levels=[1, 1], clip=clip, **options), grads, Conductor([1, 1]))
    matrices = [p for p in other.parameters() if p.dim() >= 2]
    vectors = [p for p in other.parameters() if p.dim() < 2]
    reference = theirs([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], **options)
    for grad in grads:
        for name, parameter in other.named_parameters():
            parameter.grad = grad[name].clone()
        if clip is not None:
            nn.utils.clip_grad_norm_(other.parameters(), clip)
        reference.step()
    assert equal(mine.copy(), other.copy())


@every_optimizer
def test_nothing_of_a_resting_level_moves(name: str) -> None:
    """Of what a step moves; what a layer's inputs add up to is collected, as gradients are."""
    model = Model(0, 1)
    optimizer = made(name, model, lr=0.1)
    learn(model, optimizer, 0, 1)
    before = model.copy()
    tensors, counters = optimizer.state_dict()
    moments = {name: t.clone() for name, t in tensors.items() if "parts.1" in name and not _collected(name)}
    learn(model, optimizer, 1, 4)
    after, (tensors, later) = model.copy(), optimizer.state_dict()
    assert equal({n: t for n, t in before.items() if n.startswith("parts.1")}, after)
    assert not equal({n: t for n, t in before.items() if n.startswith("parts.0")}, after)
    assert equal(moments, tensors)
    assert later["fires"] == {"shared": 4, "level0": 4, "level1": 1}
    assert later["pending"] == {"level0": 0, "level1": 3}
    assert counters["pending"]["level1"] == 0
    learn(model, optimizer, 4, 5)
    assert not torch.equal(model.copy()["parts.1.weight"], after["parts.1.weight"])
    assert optimizer.state_dict()[1]["pending"] == {"level0": 0, "level1": 0}


def _collected(slot: str) -> bool:
    return slot.split("/")[0] in ("buffer", "inputs", "count")


@pytest.mark.parametrize(("reduce", "factor"), [("sum", 1.0), ("mean", 0.25)])
def test_what_is_applied_is_what_was_accumulated(reduce: Any, factor: float) -> None:
    model = Model(0, dtype=torch.float64)
    levels = [LevelSpec(update_period=4, reduce=reduce)]
    optimizer, conductor = SGD(model, levels=levels, lr=0.5), Conductor(levels, step=1)
    start, grads = model.copy(), gradients(model, 4, torch.float64)
    run(model, optimizer, grads, conductor)  # steps 1 to 4: three rest, the fourth fires
    for name, value in model.copy().items():
        total = sum(grad[name] for grad in grads) * factor
        assert torch.allclose(value, start[name] - 0.5 * total, rtol=0, atol=1e-15)


def test_a_slow_adamw_is_adamw_on_the_sums() -> None:
    slow, plain = Model(0, dtype=torch.float64), Model(0, dtype=torch.float64)
    grads = gradients(slow, 12, torch.float64)
    run(slow, AdamW(slow, levels=[4], lr=0.01, clip=None), grads, Conductor([4], step=1))
    sums = [{name: sum(g[name] for g in grads[i : i + 4]) for name in grads[0]} for i in (0, 4, 8)]
    run(plain, AdamW(plain, levels=[1], lr=0.01, clip=None), sums, Conductor([1]))  # type: ignore[arg-type]
    for name, value in plain.copy().items():  # level-local counter, no moment decay, no weight decay at rest
        assert torch.allclose(value, slow.copy()[name], rtol=0, atol=1e-14)


def test_clipping_comes_after_reduction_and_spans_what_is_due() -> None:
    model = Model(0, 1, dtype=torch.float64)
    optimizer = SGD(model, levels=[1, 2], lr=1.0, clip=1.0)
    start, grads = model.copy(), gradients(model, 2, torch.float64)
    run(model, optimizer, grads, Conductor([1, 2], step=1))
    moved = model.copy()
    first = torch.linalg.vector_norm(torch.cat([grads[0][n].flatten() for n in grads[0] if n.startswith("parts.0")]))
    due = {n: grads[1][n] + (grads[0][n] if n.startswith("parts.1") else 0) for n in grads[1]}
    second = torch.linalg.vector_norm(torch.cat([t.flatten() for t in due.values()]))
    for name in start:
        expected = due[name] / (second + 1e-6)
        if name.startswith("parts.0"):
            expected = expected + grads[0][name] / (first + 1e-6)
        assert torch.allclose(start[name] - moved[name], expected, rtol=0, atol=1e-14)


def test_a_level_has_its_own_rate() -> None:
    model = Model(0, 1)
    optimizer = SGD(model, levels=[1, LevelSpec(lr_scale=0.0)], lr=0.1)
    start = model.copy()
    run(model, optimizer, gradients(model, 3), Conductor([1, 1]))
    assert torch.equal(model.copy()["parts.1.weight"], start["parts.1.weight"])
    assert not torch.equal(model.copy()["parts.0.weight"], start["parts.0.weight"])


def test_the_rate_of_one_step_replaces_the_built_in_one() -> None:
    one, two = Model(0), Model(0)
    grad = gradients(one, 1)[0]
    SGD(one, lr=0.1).step(grad, Pulse(0, (True,)), lr=0.7)
    SGD(two, lr=0.7).step(grad, Pulse(0, (True,)))
    assert equal(one.copy(), two.copy())


def test_health_is_period_for_aligned_gradients_and_warns_above_three_roots() -> None:
    model, period = Model(0), 16
    optimizer = SGD(model, levels=[period], lr=0.0)
    grad = gradients(model, 1)[0]
    run(model, optimizer, [grad] * period, Conductor([period], step=1))
    assert optimizer.health() == {0: pytest.approx(period, rel=1e-6)}
    assert optimizer.warnings() == ["level 0: error buffer 16 times the gradient; expected at most 12"]
    signs = [{n: t * (-1) ** i for n, t in grad.items()} for i in range(period)]
    run(model, optimizer, signs, Conductor([period], step=1))
    assert optimizer.warnings() == []


@every_optimizer
@pytest.mark.parametrize("stop", [1, 5, 7, 8, 13])
def test_state_in_the_middle_of_a_period_continues_bit_for_bit(name: str, stop: int) -> None:
    """In the middle of the level's period, and of any period of the optimizer's own."""

    def build() -> tuple[Model, LevelOptimizer]:
        model = Model(0, 1, None)
        return model, made(name, model, lr=0.05, **({"momentum": 0.9} if name == "sgd" else {}))

    whole, optimizer = build()
    learn(whole, optimizer, 0, stop)
    tensors, counters = optimizer.state_dict()
    saved = {name: tensor.clone() for name, tensor in tensors.items()}, dict(counters), whole.copy()
    learn(whole, optimizer, stop, 20)

    again, second = build()
    again.load_state_dict(saved[2])
    second.load_state_dict(saved[0], saved[1])
    learn(again, second, stop, 20)
    assert equal(whole.copy(), again.copy())
    assert equal(optimizer.state_dict()[0], second.state_dict()[0])
    assert optimizer.state_dict()[1] == second.state_dict()[1]


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_regression_is_learned(name: str, dtype: torch.dtype) -> None:
    """Finite and downhill with the default options but the rate; narrow parameters through wide state."""
    model = Model(0, 1)
    rate = {"dgd": 0.3, "delta-momentum": 0.3, "sgd": 0.3}.get(name, 0.01)
    x, target = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(5))
    target = torch.tanh(x @ torch.randn(4, 4, generator=torch.Generator().manual_seed(6)))
    model.to(dtype)
    optimizer, conductor, losses = made(name, model, lr=rate), Conductor([1, 4]), []
    for _ in range(60):
        loss = (model(x.to(dtype)).float() - target).square().mean()
        grads = torch.autograd.grad(loss, list(optimizer.parameters.values()))
        optimizer.step(dict(zip(optimizer.parameters, grads, strict=True)), conductor.pulse())
        conductor.advance()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(tensor.dtype == torch.float32 for tensor in optimizer.state_dict()[0].values())


def test_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    model = Model(0, 1)
    optimizer = AdamW(model, levels=[1, 4])
    run(model, optimizer, gradients(model, 3), Conductor([1, 4]))
    tensors, counters = optimizer.state_dict()
    name = "exp_avg/parts.0.weight"
    wrong: list[tuple[dict[str, Tensor], dict[str, Any]]] = [
        ({n: t for n, t in tensors.items() if n != name}, counters),
        ({**tensors, "exp_avg/ghost": torch.zeros(1)}, counters),
        ({**tensors, name: tensors[name][:2]}, counters),
        ({**tensors, name: tensors[name].half()}, counters),
        (tensors, {**counters, "kind": "SGD"}),
        (tensors, {**counters, "pending": {"level0": 0, "level1": 0}}),
        (tensors, {**counters, "pending": {"level0": 0, "level1": -2}}),
        (tensors, {**counters, "fires": {"level0": 3}}),
    ]
    for parts in wrong:
        with pytest.raises(CheckpointError, match="optimizer"):
            optimizer.load_state_dict(*parts)
        assert optimizer.state_dict()[0].keys() == tensors.keys()
        assert optimizer.state_dict()[1] == counters


def test_a_non_finite_gradient_names_itself_and_moves_nothing() -> None:
    model = Model(0, 1)
    optimizer = AdamW(model, levels=[1, 4])
    conductor, grads = Conductor([1, 4]), gradients(model, 3)
    run(model, optimizer, grads[:2], conductor)
    start, held = model.copy(), {n: t.clone() for n, t in optimizer.state_dict()[0].items()}
    grads[2]["parts.1.bias"][1] = math.nan
    with pytest.raises(DivergedError, match=r"step 2: gradient of parts\.1\.bias \(level 1\) is not finite"):
        optimizer.step(grads[2], conductor.pulse())
    assert equal(start, model.copy())
    assert equal(held, optimizer.state_dict()[0])


def test_missing_unknown_and_misshapen_gradients_are_refused() -> None:
    model = Model(0)
    optimizer, grads, pulse = SGD(model), gradients(model, 1)[0], Pulse(0, (True,))
    with pytest.raises(InputError, match="no gradient given"):
        optimizer.step({"parts.0.bias": grads["parts.0.bias"]}, pulse)
    with pytest.raises(InputError, match=r'did you mean "parts\.0\.bias"'):
        optimizer.step({**grads, "parts.0.bais": grads["parts.0.bias"]}, pulse)
    with pytest.raises(InputError, match="shape"):
        optimizer.step({**grads, "parts.0.bias": torch.zeros(3)}, pulse)
    with pytest.raises(InputError, match="pulse: 2 levels"):
        optimizer.step(grads, Pulse(0, (True, True)))
    with torch.inference_mode(), pytest.raises(InputError, match="inside a Tape"):
        optimizer.step(grads, pulse)


def test_levels_that_cannot_be_attributed_are_refused() -> None:
    model = Model(0, 1)
    with pytest.raises(InputError, match="give the model itself"):
        SGD(model.named_parameters(), levels=[1, 4])
    with pytest.raises(InputError, match=r"parts\.1\.weight: level 1 of 1"):
        SGD(model, levels=[1])
    for option in ({"lr": math.nan}, {"lr": -1.0}, {"clip": True}, {"betas": (1.0, 0.9)}):
        with pytest.raises(InputError):
            AdamW(model, levels=[1, 1], **option)


def test_the_nearest_module_with_a_level_owns_a_parameter() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    model[0].hecate_level = 1  # type: ignore[assignment]
    model[0][0].hecate_level = 0  # type: ignore[index]
    owners = level_of_parameters(model)
    assert owners == {"0.0.weight": 0, "0.0.bias": 0, "0.1.weight": 1, "0.1.bias": 1, "1.weight": None, "1.bias": None}
    model[1].weight = model[0][1].weight  # type: ignore[index]
    with pytest.raises(CompositionError, match="belongs to one level"):
        level_of_parameters(model)


def test_frozen_parameters_are_left_out() -> None:
    model = Model(0, None)
    for parameter in model.parts[1].parameters():
        parameter.requires_grad_(False)
    assert set(SGD(model).parameters) == {"parts.0.weight", "parts.0.bias"}


def test_narrow_parameters_are_updated_in_float32_state() -> None:
    model = Model(0, dtype=torch.bfloat16)
    optimizer = AdamW(model, lr=0.1)
    run(model, optimizer, gradients(model, 2, torch.bfloat16), Conductor())
    assert {t.dtype for t in optimizer.state_dict()[0].values()} == {torch.float32}
    assert model.copy()["parts.0.weight"].dtype == torch.bfloat16
