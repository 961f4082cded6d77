"""The wall in use: one layer in tapes and plain loops, carried state, modules, cuts, threads, transforms."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hecate_core.differentiation import ChangedArgument, SeveredGradient, Tape, autodiff, cut, no_autodiff
from hecate_core.errors import InputError
from hecate_core.records import State

from .marked import add, probe, square, total


@pytest.fixture
def w() -> Tensor:
    return torch.linspace(0.5, 2.0, 5, dtype=torch.float64).requires_grad_()


@pytest.fixture
def x() -> Tensor:
    return torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.1, 0.9, 5, dtype=torch.float64))

    @autodiff
    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y = torch.tanh(x * self.weight + state.memory)
        return y, state.replace(memory=state.memory + 0.5 * y, position=state.position + x.shape[0])


def _plain_step(layer: Layer, x: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
    y, state = layer(x, state)
    params = dict(layer.named_parameters())
    found = torch.autograd.grad(y.sum(), list(params.values()))
    return dict(zip(params, found, strict=True)), cut(state)


def _taped_step(layer: Layer, x: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
    with Tape() as tape:
        y, state = layer(x, state)
        loss = total(y)
        carried = cut(state)
    gradients = tape.grad(loss, dict(layer.named_parameters()))
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}, carried


def test_tape_then_plain_loop_then_tape_again_carry_one_state(x: Tensor) -> None:
    layer, twin = Layer(), Layer()
    optimizer, twin_optimizer = (torch.optim.AdamW(one.parameters(), lr=0.1) for one in (layer, twin))
    state, twin_state = (State(memory=torch.zeros(5, dtype=torch.float64)) for _ in range(2))
    for step in (_taped_step, _taped_step, _plain_step, _plain_step, _taped_step):
        gradients, state = step(layer, x, state)
        expected, twin_state = _plain_step(twin, x, twin_state)
        for one, grads, opt in ((layer, gradients, optimizer), (twin, expected, twin_optimizer)):
            one.weight.grad = grads["weight"]
            opt.step()
    assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(state.memory, twin_state.memory)
    assert state.position == 25
    assert not state.memory.is_inference()


def test_accumulation_over_several_tapes_equals_one_batch(x: Tensor) -> None:
    layer = Layer()
    state = State(memory=torch.zeros(5, dtype=torch.float64))
    batches = [x, x * 2, x - 1]
    summed = torch.zeros_like(layer.weight)
    for batch in batches:
        summed += _taped_step(layer, batch, state)[0]["weight"]
    loss = sum(layer(batch, state)[0].sum() for batch in batches)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(summed, layer.weight.grad, rtol=1e-14, atol=1e-14)


def test_backward_after_the_tape_fills_ordinary_gradients(x: Tensor) -> None:
    layer = Layer()
    with Tape():
        loss = total(layer(x, State(memory=x))[0])
    loss.backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad.is_inference()


def test_state_made_by_unmarked_code_is_refused_with_a_way_out(x: Tensor) -> None:
    layer = Layer()
    with Tape(), pytest.raises(SeveredGradient, match=r"`state.memory` comes from .* make it before the Tape"):
        layer(x, State(memory=torch.zeros(5, dtype=torch.float64)))
    with Tape():
        layer(x, cut(State(memory=torch.zeros(5, dtype=torch.float64))))


def test_module_built_inside_a_tape_is_refused(x: Tensor) -> None:
    state = State(memory=torch.zeros(5, dtype=torch.float64))
    with Tape():
        layer = Layer()
        with pytest.raises(SeveredGradient, match="`weight` of Layer was made inside a Tape"):
            layer(x, state)


def test_bound_method_marked_later_checks_its_module(x: Tensor) -> None:
    state = State(memory=torch.zeros(5, dtype=torch.float64))
    with Tape():
        layer = nn.Linear(5, 5)
        with pytest.raises(SeveredGradient, match="`weight` of Linear was made inside a Tape"):
            autodiff(layer.forward)(x)
    assert state.position == 0


def test_in_place_on_a_parameter_of_the_module_is_refused(x: Tensor) -> None:
    class Spoils(Layer):
        @autodiff
        def spoil(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.mul_(0.5)  # hecate: allow CS-47 -- the fault that the tape must name
            return x * self.weight

    layer = Spoils()
    with Tape(), pytest.raises(ChangedArgument, match=r"argument `self.weight` was changed in place"):
        layer.spoil(x)


def test_cut_counts_once_per_call_and_copies(x: Tensor, w: Tensor) -> None:
    with Tape() as tape:
        hidden = square(x, w)
        state = cut(State(a=hidden, b=hidden * 2, position=7))
        one = cut(hidden)
        total(add(one[1:], state.a[1:]))  # views of what was cut are constants like any other
    assert tape.cuts == 2
    assert state.position == 7
    assert not state.a.requires_grad
    assert not state.b.is_inference()
    assert one.data_ptr() != hidden.data_ptr()


def test_cut_and_no_autodiff_sever_outside_a_tape_as_well(w: Tensor) -> None:
    assert not cut(w * 2).requires_grad
    assert not probe(w).requires_grad
    first = no_autodiff(lambda t: t[0])(w)
    assert not first.requires_grad


def test_no_autodiff_inside_a_mark_severs_and_counts(x: Tensor, w: Tensor) -> None:
    @autodiff
    def outer(x: Tensor, w: Tensor) -> Tensor:
        return (x * w * probe(w)).sum()

    with Tape() as tape:
        loss = outer(x, w)
    (gradient,) = tape.grad(loss, [w])
    assert gradient is not None
    torch.testing.assert_close(gradient, x * w.detach().mean())
    assert tape.cuts == 1


def test_no_autodiff_may_return_its_argument(x: Tensor, w: Tensor) -> None:
    same = no_autodiff(lambda t: t)
    with Tape():
        hidden = square(x, w)
        total(same(hidden))
        total(same(hidden * 2))


def test_no_autodiff_may_not_write_into_its_argument(x: Tensor, w: Tensor) -> None:
    @no_autodiff
    def spoils(x: Tensor) -> Tensor:
        return x.zero_()

    with Tape(), pytest.raises(ChangedArgument, match="spoils: argument `x`"):
        spoils(square(x, w))


def test_tapes_do_not_nest_and_are_used_once() -> None:
    with Tape() as tape:
        with pytest.raises(InputError, match="tapes do not nest"), Tape():
            pass
        assert torch.is_inference_mode_enabled()
    assert not torch.is_inference_mode_enabled()
    with pytest.raises(InputError, match="has been used"), tape:
        pass


def test_an_exception_leaves_no_mode_behind(w: Tensor) -> None:
    @autodiff
    def fails(w: Tensor) -> Tensor:
        raise KeyError("body")

    with pytest.raises(KeyError), Tape():
        fails(w)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert (w * 2).requires_grad
    with Tape():
        with pytest.raises(KeyError):
            fails(w)
        with pytest.raises(SeveredGradient):  # still watching
            total(w * 2)


def test_worker_threads_see_neither_the_tape_nor_its_mode(x: Tensor, w: Tensor) -> None:
    seen: list[bool] = []

    def work() -> None:
        seen.append(torch.is_inference_mode_enabled())
        seen.append(total(square(x, w) * 2.0).requires_grad)

    with Tape() as tape:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [False, True]
    assert not tape.entries


def test_loss_must_be_one_element(x: Tensor, w: Tensor) -> None:
    with Tape() as tape:
        hidden = square(x, w)
    with pytest.raises(InputError, match=r"the loss has shape \(5,\)"):
        tape.grad(hidden, [w])


@pytest.mark.parametrize("bad", [nn.Linear(2, 2), int, 3])
def test_marks_stand_on_functions_only(bad: Any) -> None:
    with pytest.raises(TypeError, match="a mark on"):
        autodiff(bad)


def test_marks_refuse_generators() -> None:
    def stream() -> Any:
        yield 1

    with pytest.raises(TypeError, match="stream"):
        autodiff(stream)


def test_messages_are_one_line_and_name_module_and_function(x: Tensor, w: Tensor) -> None:
    with Tape(), pytest.raises(SeveredGradient) as caught:
        total(square(x, w) * 2)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{total.__module__}.total: argument `x`")
