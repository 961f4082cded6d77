"""The wall: every attempt to lose a gradient in silence is an error that names the place."""

from typing import Any, NamedTuple

import attrs
import pytest
import torch
from torch import Tensor

from hecate_core.differentiation import ChangedArgument, SeveredGradient, Tape, autodiff, custom_vjp, cut
from hecate_core.errors import InputError
from hecate_core.records import State, Tokens

from .marked import add, probe, square, total


def _scale_vjp(residuals: tuple[Tensor, Tensor], cotangent: Tensor) -> tuple[Tensor, Tensor]:
    x, w = residuals
    return cotangent * w, cotangent * x


@custom_vjp(_scale_vjp)
def scale(x: Tensor, w: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return x * w, (x, w)


@pytest.fixture
def w() -> Tensor:
    return torch.linspace(0.5, 2.0, 5, dtype=torch.float64).requires_grad_()


@pytest.fixture
def x() -> Tensor:
    return torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)


# --- the attempts of the contract's table, one named test each ---------------------------------------


def test_marked_chain_has_the_gradient_of_plain_autograd(x: Tensor, w: Tensor) -> None:
    with Tape() as tape:
        hidden = scale(square(x, w), w)
        level = probe(hidden)
        loss = total(add(hidden, level))
    (gradient,) = tape.grad(loss, [w])
    plain = ((x * w) ** 2 * w + ((x * w) ** 2 * w).mean().detach()).sum()
    (expected,) = torch.autograd.grad(plain, [w])
    assert gradient is not None
    assert torch.equal(gradient, expected)
    assert not gradient.is_inference()
    assert tape.audit(loss) == 5  # mul, pow, scale, add, sum
    assert tape.cuts == 1
    assert sum(tape.entries.values()) == 4


def test_unmarked_op_between_marked_ones_is_refused_at_the_consumer(x: Tensor, w: Tensor) -> None:
    with Tape(), pytest.raises(SeveredGradient, match=r"total: argument `x` comes from unmarked code"):
        total(square(x, w) * 2.0)


def test_one_of_two_paths_through_unmarked_code_is_refused(x: Tensor, w: Tensor) -> None:
    with Tape():
        hidden = square(x, w)
        with pytest.raises(SeveredGradient, match=r"add: argument `y` comes from unmarked code"):
            add(hidden, torch.sin(hidden))


@pytest.mark.parametrize(
    "take",
    [
        lambda t: t.view(5, 1),
        lambda t: t[0],
        lambda t: t.unbind(0)[1],
        lambda t: t.split(2)[0],
        lambda t: t.expand(2, 5),
        lambda t: t[1:].view(2, 2),
    ],
)
def test_view_taken_by_unmarked_code_is_refused(x: Tensor, w: Tensor, take: Any) -> None:
    with Tape(), pytest.raises(SeveredGradient, match="argument `x` is a view taken by unmarked code"):
        total(take(square(x, w)))


def test_view_of_a_parameter_taken_by_unmarked_code_is_refused(w: Tensor) -> None:
    with Tape(), pytest.raises(SeveredGradient, match="argument `x` is a view taken by unmarked code"):
        total(w[1:])


@pytest.mark.parametrize("take", [lambda t: t.detach(), lambda t: t.detach()[1:], lambda t: t.data])
def test_detached_alias_is_refused(x: Tensor, w: Tensor, take: Any) -> None:
    with Tape():
        hidden = square(x, w)
        with pytest.raises(SeveredGradient, match="argument `x` is a detached alias"):
            total(take(hidden))


def test_loss_computed_by_unmarked_code_is_refused(x: Tensor, w: Tensor) -> None:
    with Tape() as tape:
        loss = square(x, w).sum()
        with pytest.raises(SeveredGradient, match="the loss comes from unmarked code"):
            tape.grad(loss, [w])
    with pytest.raises(SeveredGradient, match="the loss comes from unmarked code"):
        tape.grad(loss, [w])


def test_loss_that_depends_on_nothing_is_refused(x: Tensor, w: Tensor) -> None:
    with Tape() as tape:
        loss = total(x)
    with pytest.raises(SeveredGradient, match="depends on no parameter"):
        tape.grad(loss, [w])


def test_unreached_parameter_is_refused_unless_declared(x: Tensor, w: Tensor) -> None:
    idle = torch.ones(2, requires_grad=True)
    frozen = torch.ones(2)
    params = {"w": w, "idle": idle, "frozen": frozen}
    for missing, why in (("idle", "is not reached by the loss"), ("frozen", "has requires_grad=False")):
        others = [name for name in ("idle", "frozen") if name != missing]
        with Tape() as tape:
            loss = total(square(x, w))
        with pytest.raises(SeveredGradient, match=f'parameter "{missing}" {why}'):
            tape.grad(loss, params, unused=others)
    with Tape() as tape:
        loss = total(square(x, w))
    gradients = tape.grad(loss, params, unused=["idle", "frozen"])
    assert gradients["idle"] is None
    assert gradients["w"] is not None
    assert list(gradients) == ["w", "idle", "frozen"]


def test_unused_must_name_a_parameter(x: Tensor, w: Tensor) -> None:
    with Tape() as tape:
        loss = total(square(x, w))
    with pytest.raises(InputError, match='unused "wight" is no parameter; did you mean "weight"'):
        tape.grad(loss, {"weight": w}, unused=["wight"])


def test_vjp_that_returns_none_is_refused_in_backward(x: Tensor, w: Tensor) -> None:
    @custom_vjp(lambda residuals, cotangent: (cotangent, None))
    def lossy(x: Tensor, w: Tensor) -> tuple[Tensor, None]:
        return x * w, None

    with Tape() as tape:
        loss = total(lossy(x, w))
    with pytest.raises(SeveredGradient, match="lossy: its vjp returned None for `w`"):
        tape.grad(loss, [w])


def test_vjp_that_returns_the_wrong_count_is_refused_in_backward(x: Tensor, w: Tensor) -> None:
    @custom_vjp(lambda residuals, cotangent: cotangent)
    def short(x: Tensor, w: Tensor) -> tuple[Tensor, None]:
        return x * w, None

    with Tape() as tape:
        loss = total(short(x, w))
    with pytest.raises(SeveredGradient, match="1 gradients for 2 parameters"):
        tape.grad(loss, [w])


@pytest.mark.parametrize("where", ["tensor", "record", "list", "integer"])
def test_in_place_on_an_argument_is_refused(x: Tensor, w: Tensor, where: str) -> None:
    @autodiff
    def spoils(w: Tensor, value: Any) -> Tensor:
        inner: Tensor = value["memory"] if where == "record" else value[0] if where == "list" else value
        inner.add_(1)
        return w * 2

    value: Any = x
    path = "value"
    if where == "record":
        value, path = State(memory=x), "value.memory"
    elif where == "list":
        value, path = [x], r"value\[0\]"
    elif where == "integer":
        value = torch.arange(5)
    with Tape(), pytest.raises(ChangedArgument, match=f"spoils: argument `{path}` was changed in place"):
        spoils(w, value)


def test_node_built_outside_marks_is_found_by_the_audit(x: Tensor, w: Tensor) -> None:
    with Tape() as tape:
        hidden = square(x, w)
        with torch.inference_mode(False):
            stray = hidden.tanh()
        loss = total(stray)
        with pytest.raises(SeveredGradient, match="graph node TanhBackward0 was recorded outside"):
            tape.audit(loss)
        assert tape.audit(total(hidden)) == 3


def test_graph_older_than_the_tape_is_found_by_the_audit(x: Tensor, w: Tensor) -> None:
    older = torch.exp(w)
    with Tape() as tape:
        loss = total(square(x, older))
    with pytest.raises(SeveredGradient, match="ExpBackward0"):
        tape.audit(loss)


def test_nested_marked_calls_are_plain_calls(x: Tensor, w: Tensor) -> None:
    @autodiff
    def outer(x: Tensor, w: Tensor) -> Tensor:
        hidden = square(x, w)
        return total(scale(hidden[1:] * 1.0, w[1:]))  # views and glue are recorded in here

    with Tape() as tape:
        loss = outer(x, w)
    assert list(tape.entries.values()) == [1]
    (gradient,) = tape.grad(loss, [w])
    (expected,) = torch.autograd.grad(((x * w) ** 2 * w)[1:].sum(), [w])
    assert gradient is not None
    assert torch.equal(gradient, expected)
    assert tape.audit(loss) == 7


def test_custom_vjp_passes_gradcheck(x: Tensor, w: Tensor) -> None:
    assert torch.autograd.gradcheck(scale, (x.requires_grad_(), w))


# --- beyond the table --------------------------------------------------------------------------------


def test_integer_tensors_are_exempt(w: Tensor) -> None:
    @autodiff
    def pick(w: Tensor, index: Tensor) -> Tensor:
        return w[index.to(torch.int64).clone()]

    with Tape() as tape:
        index = torch.arange(3)
        assert index.is_inference()
        loss = total(pick(w, index))
    assert tape.grad(loss, [w])[0] is not None


def test_integer_tensor_that_backward_must_keep_is_named(w: Tensor) -> None:
    @autodiff
    def pick(w: Tensor, ids: Tensor) -> Tensor:
        return torch.nn.functional.embedding(ids, w[:, None])

    with Tape(), pytest.raises(SeveredGradient, match="pick: argument `ids` was made inside a Tape and backward needs"):
        pick(w, torch.arange(3))
    with Tape():
        pick(w, cut(torch.arange(3)))


def test_constants_from_outside_may_be_sliced_by_unmarked_code(x: Tensor, w: Tensor) -> None:
    with Tape() as tape:
        loss = total(square(x[1:].view(2, 2), w.detach()[1:].view(2, 2)))
    assert not loss.requires_grad
    assert tape.cuts == 0


def test_leaf_slice_of_a_flat_buffer_is_no_false_alarm() -> None:
    flat = torch.arange(6.0)
    leaf = flat[:3].requires_grad_()
    ones = torch.ones(3)
    with Tape() as tape:
        loss = total(square(ones, leaf))
    assert tape.grad(loss, [leaf])[0] is not None


def test_reused_addresses_are_no_false_alarm() -> None:
    """Tracked storages die and their addresses return as constants, here at least 100 times."""
    w = torch.ones(64, requires_grad=True)
    ones = torch.ones(64)
    dead: set[int] = set()
    again = 0
    with Tape():
        for _ in range(20_000):
            tracked = square(ones, w)
            dead.add(tracked.data_ptr())
            del tracked
            with torch.inference_mode(False):
                constant = torch.ones(64)
            again += constant.data_ptr() in dead
            total(constant)
            if again == 100:
                return
    pytest.fail("the allocator reused no addresses: the test proves nothing")


def test_living_aliases_are_all_caught() -> None:
    w = torch.ones(64, requires_grad=True)
    ones = torch.ones(64)
    with Tape():
        tracked = [square(ones, w) for _ in range(50)]
        for tensor in tracked:
            with pytest.raises(SeveredGradient):
                total(tensor.detach())


def test_result_detached_in_the_body_is_refused(x: Tensor, w: Tensor) -> None:
    @autodiff
    def leaks(hidden: Tensor) -> tuple[Tensor, Tensor]:
        return hidden * 2, hidden.detach()

    with Tape(), pytest.raises(SeveredGradient, match="leaks: result 1 is a detached alias"):
        leaks(square(x, w))


ONE = torch.ones(1)


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@attrs.frozen(eq=False)
class Coefficients:
    keep: Tensor
    write: Tensor


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda t: {"a": [t]}, r"value\.a\[0\]"),
        (lambda t: Tokens(k=ONE, v=t), r"value\.v"),
        (lambda t: State(level0=State(memory=t), position=3), r"value\.level0\.memory"),
        (lambda t: Pair(ONE, t), r"value\[1\]"),
        (lambda t: Coefficients(ONE, t), r"value\.write"),
    ],
)
def test_nested_arguments_are_checked_and_named(x: Tensor, w: Tensor, wrap: Any, path: str) -> None:
    @autodiff
    def uses(w: Tensor, *, value: Any) -> Tensor:
        return w * 1

    with Tape(), pytest.raises(SeveredGradient, match=f"uses: argument `{path}` comes from unmarked code"):
        uses(w, value=wrap(x * 2))


def test_closure_of_a_local_function_is_checked(x: Tensor, w: Tensor) -> None:
    with Tape():
        hidden = square(x, w) * 2

        @autodiff
        def uses(w: Tensor) -> Tensor:
            return w + hidden

        with pytest.raises(SeveredGradient, match="argument `hidden` comes from unmarked code"):
            uses(w)
