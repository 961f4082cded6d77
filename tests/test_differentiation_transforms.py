"""The wall beside the rest of PyTorch: autocast, checkpointing, func, export, compile, custom backwards."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hecate_core.differentiation import SeveredGradient, Tape, autodiff, custom_vjp, cut, no_autodiff
from hecate_core.errors import InputError
from hecate_core.records import State


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        with torch.no_grad():
            self.inner.weight.copy_(torch.linspace(-1, 1, 16).view(4, 4))
            self.inner.bias.zero_()

    @autodiff
    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y = self.inner(x) * (1 + state.memory)
        return y, state.replace(memory=state.memory + y.mean(0), position=state.position + x.shape[0])


@autodiff
def loss_of(y: Tensor) -> Tensor:
    return (y.float() ** 2).sum()


def _inputs() -> tuple[Tensor, State]:
    return torch.linspace(-1, 1, 12).view(3, 4), State(memory=torch.zeros(4))


def _expected(layer: Gated) -> Tensor:
    x, state = _inputs()
    return torch.autograd.grad(loss_of(layer(x, state)[0]), layer.inner.weight)[0]


def test_autocast_around_several_tapes_sees_the_updated_weight() -> None:
    layer = Gated()
    x, state = _inputs()
    values = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(2):
            with Tape() as tape:
                loss = loss_of(layer(x, state)[0])
            values.append(loss.item())
            gradient = tape.grad(loss, [layer.inner.weight])[0]
            assert gradient is not None
            with torch.no_grad():
                layer.inner.weight -= 0.05 * gradient
    assert values[1] < values[0]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("marked", [True, False])
def test_activation_checkpointing_around_marked_layers(inside: bool, marked: bool) -> None:
    """Recomputed only when a marked function asks for it: unmarked code runs with gradients off."""
    layer = Gated()
    x, state = _inputs()
    calls = []
    handle = layer.register_forward_pre_hook(lambda *_: calls.append(1))

    def segment(x: Tensor, state: State) -> Tensor:
        y: Tensor = checkpoint(layer, x, state, use_reentrant=False)[0]  # hecate: allow CS-42 -- state is an argument
        return y

    with Tape() as tape:
        loss = loss_of((autodiff(segment) if marked else segment)(x, state))
        if inside:
            gradient = tape.grad(loss, [layer.inner.weight])[0]
    if not inside:
        gradient = tape.grad(loss, [layer.inner.weight])[0]
    assert len(calls) == (2 if marked else 1)
    assert sum(tape.entries.values()) == 2  # recomputed marks are plain calls
    handle.remove()
    assert gradient is not None
    assert not gradient.is_inference()
    assert torch.equal(gradient, _expected(layer))


def test_func_transforms_inside_and_around_a_mark() -> None:
    @autodiff
    def cubed(x: Tensor) -> Tensor:
        return (x**3).sum()

    @autodiff
    def slopes(x: Tensor) -> Tensor:
        found: Tensor = torch.func.vmap(torch.func.grad(cubed))(x)
        return found

    x = torch.linspace(-1, 1, 6).view(3, 2)
    with Tape():
        assert torch.allclose(slopes(x), 3 * x**2)
        assert torch.allclose(torch.func.grad(cubed)(x), 3 * x**2)


def test_second_order_through_a_mark() -> None:
    w = torch.tensor(3.0, requires_grad=True)

    @autodiff
    def inner_step(w: Tensor) -> Tensor:
        slope: Tensor = torch.autograd.grad(w**3, w, create_graph=True)[0]
        return w - 0.1 * slope

    with Tape() as tape:
        loss = inner_step(w)
    gradient = tape.grad(loss, [w])[0]
    assert gradient is not None
    assert gradient.item() == pytest.approx(1 - 0.1 * 6 * 3)


@pytest.mark.parametrize("strict", [True, False])
def test_export_of_a_marked_module_outside_a_tape(strict: bool) -> None:
    layer = Gated()
    x, state = _inputs()
    program = torch.export.export(layer, (x, state), strict=strict)
    y, after = program.module()(x, state)
    expected, expected_state = layer(x, state)
    assert torch.equal(y, expected)
    assert torch.equal(after.memory, expected_state.memory)
    assert after.position == 3


def test_compile_of_marked_functions_without_a_graph_break() -> None:
    layer = Gated()
    x, state = _inputs()

    @autodiff
    def whole(x: Tensor, state: State) -> Tensor:
        y, after = layer(x, state)
        loss: Tensor = loss_of(scaled(y, after.memory)) + shifted(y) + cut(after).memory.sum()
        return loss

    @no_autodiff
    def shifted(y: Tensor) -> Tensor:
        return y.sum()

    compiled = torch.compile(whole, fullgraph=True, backend="eager")
    one = torch.autograd.grad(compiled(x, state), layer.inner.weight)[0]
    two = torch.autograd.grad(whole(x, state), layer.inner.weight)[0]
    assert torch.equal(one, two)
    with Tape() as tape:
        loss = autodiff(lambda x, state: compiled(x, state))(x, state)
        with pytest.raises(SeveredGradient, match="comes from unmarked code"):
            loss_of(compiled(x, state))  # compiled code is unmarked code
    three = tape.grad(loss, [layer.inner.weight])[0]
    assert three is not None
    assert torch.equal(three, two)


# --- custom_vjp ------------------------------------------------------------------------------------


def _scaled_vjp(residuals: dict[str, Any], cotangent: Tensor) -> tuple[Tensor, Tensor | None, None]:
    return cotangent * residuals["w"] * residuals["times"], cotangent * residuals["x"] * residuals["times"], None


@custom_vjp(_scaled_vjp)
def scaled(x: Tensor, w: Tensor, times: int = 1) -> tuple[Tensor, dict[str, Any]]:
    return x * w * times, {"x": x, "w": w, "times": times}


def test_custom_vjp_takes_keywords_and_defaults() -> None:
    x, w = torch.ones(3, requires_grad=True), torch.full((3,), 2.0, requires_grad=True)
    for call in (lambda: scaled(x, w, 3), lambda: scaled(x, times=3, w=w), lambda: scaled(w=w, x=x, times=3)):
        out = call()
        assert out.grad_fn is not None
        assert type(out.grad_fn).__name__ == "scaledBackward"
        slopes = torch.autograd.grad(out.sum(), (x, w))
        assert torch.equal(slopes[0], torch.full((3,), 6.0))
        assert torch.equal(slopes[1], torch.full((3,), 3.0))
    assert torch.equal(scaled(x, w), x * w)
    with pytest.raises(TypeError, match='unknown argument "time"; did you mean "times"'):
        scaled(x, w, time=3)
    with pytest.raises(TypeError, match='argument "w" is missing'):
        scaled(x)


def test_custom_vjp_records_nothing_where_no_gradient_is_wanted() -> None:
    x, w = torch.ones(3), torch.ones(3, requires_grad=True)
    with torch.no_grad():
        assert scaled(x, w).grad_fn is None
    assert scaled(x, x).grad_fn is None
    with torch.inference_mode():
        assert scaled(x, w).is_inference()


def test_custom_vjp_body_leaves_no_autograd_nodes() -> None:
    w = torch.ones(3, requires_grad=True)
    x = torch.ones(3)
    with Tape() as tape:
        loss = loss_of(scaled(x, w))
    assert loss.grad_fn is not None
    assert tape.audit(loss) == 3  # scaled, pow, sum: one node stands for the whole body


@pytest.mark.parametrize("hide", ["list", "record", "module", "closure"])
def test_custom_vjp_refuses_tensors_that_autograd_would_not_see(hide: str) -> None:
    w = torch.ones(3, requires_grad=True)
    module = nn.Linear(3, 3)
    values: dict[str, tuple[Any, str]] = {
        "list": ([w], r"w\[0\]"),
        "record": (State(memory=w), r"w\.memory"),
        "module": (module, r"w\.weight"),
        "closure": (None, "enclosed"),
    }
    enclosed = w if hide == "closure" else None

    @custom_vjp(lambda residuals, cotangent: (cotangent, None))
    def hides(x: Tensor, w: Any) -> tuple[Tensor, None]:
        return x * 2 if enclosed is None else x * enclosed, None

    with pytest.raises(SeveredGradient, match=f"hides: `{values[hide][1]}` needs a gradient but is no argument"):
        hides(torch.ones(3, requires_grad=True), values[hide][0])


def test_custom_vjp_accepts_declared_nondiff_and_refuses_unknown_names() -> None:
    @custom_vjp(lambda residuals, cotangent: (cotangent, None), nondiff=("mask",))
    def masked(x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        return x * mask, None

    x, mask = (torch.ones(3, requires_grad=True) for _ in range(2))
    slopes: tuple[Any, ...] = torch.autograd.grad(masked(x, mask).sum(), (x, mask), allow_unused=True)
    assert slopes[1] is None
    with pytest.raises(InputError, match='nondiff names "maks"; did you mean "mask"'):
        custom_vjp(lambda residuals, cotangent: cotangent, nondiff=("maks",))(lambda x, mask: (x, None))


def test_custom_vjp_of_several_results_and_missing_ones() -> None:
    def vjp(residuals: tuple[Tensor], d_sum: Tensor, d_product: Tensor | None) -> tuple[Tensor]:
        (x,) = residuals
        return (d_sum if d_product is None else d_sum + 2 * x * d_product,)

    @custom_vjp(vjp)
    def both(x: Tensor, square: bool = True) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor]]:
        return (x * 1, x * x if square else None), (x,)

    @custom_vjp(lambda residuals, *cotangents: (*vjp(residuals, *cotangents), None))
    def sound(x: Tensor, square: bool = True) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor]]:
        return (x * 1, x * x if square else None), (x,)

    x = torch.full((3,), 3.0, requires_grad=True)
    one, two = sound(x)
    assert two is not None
    assert torch.equal(torch.autograd.grad((one + two).sum(), x)[0], torch.full((3,), 7.0))
    one, two = sound(x, square=False)
    assert two is None
    assert torch.equal(torch.autograd.grad(one.sum(), x)[0], torch.ones(3))
    with pytest.raises(SeveredGradient, match="1 gradients for 2 parameters"):
        torch.autograd.grad(both(x)[0].sum(), x)


def test_custom_vjp_is_first_order_only() -> None:
    x, w = (torch.ones(3, requires_grad=True) for _ in range(2))
    loss = scaled(x, w).sum()
    with pytest.raises(SeveredGradient, match="scaled: its vjp is first order only"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_custom_vjp_exports_and_compiles() -> None:
    class Uses(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return scaled(x, w, times=2) + 1

    x, w = torch.ones(3), torch.full((3,), 2.0, requires_grad=True)
    for strict in (True, False):
        program = torch.export.export(Uses(), (x, w), strict=strict)
        assert torch.equal(program.module()(x, w), Uses()(x, w))
    compiled = torch.compile(Uses(), fullgraph=True, backend="eager")
    assert torch.equal(torch.autograd.grad(compiled(x, w).sum(), w)[0], torch.full((3,), 2.0))
