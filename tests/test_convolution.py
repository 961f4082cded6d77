"""The causal convolution against its sum, cut anywhere, and through PyTorch's doors."""

import copy

import pytest
import torch
from torch import Tensor

from hecate_core.convolution import CausalConv
from hecate_core.differentiation import Tape, autodiff
from hecate_core.errors import CompositionError
from hecate_core.records import State

WIDTH, BATCH = 5, 2
EXACT = 1e-12  # float64, four terms


def _conv(kernel: int) -> CausalConv:
    torch.manual_seed(0)
    conv = CausalConv(WIDTH, kernel).double()
    with torch.no_grad():
        conv.bias.normal_()
    return conv


def _tokens(count: int, seed: int = 1) -> Tensor:
    return torch.randn(BATCH, count, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _sum(conv: CausalConv, x: Tensor) -> Tensor:
    """z_t[c] = b[c] + sum_j w[c, j] x_{t-j}[c], term by term; w[c, j] stands at kernel - 1 - j."""
    z = conv.bias.expand(x.shape).clone()
    for t in range(x.shape[1]):
        for j in range(min(conv.kernel, t + 1)):
            z[:, t] += conv.weight[:, 0, conv.kernel - 1 - j] * x[:, t - j]
    return z


@pytest.mark.parametrize("kernel", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 7, 63, 64, 100])
def test_equals_the_sum_over_the_last_tokens(kernel: int, count: int) -> None:
    conv, x = _conv(kernel), _tokens(count)
    z, state = conv(x)
    torch.testing.assert_close(z, _sum(conv, x) if count else x, rtol=0, atol=EXACT)
    assert z.dtype == torch.float64
    assert state.position == count
    assert state.tail.shape == (BATCH, kernel - 1, WIDTH)


@pytest.mark.parametrize("kernel", [1, 2, 4])
@pytest.mark.parametrize("sizes", [(1,) * 12, (2, 0, 5, 1), (63, 1, 7)])
def test_a_text_may_be_cut_anywhere(kernel: int, sizes: tuple[int, ...]) -> None:
    conv, x = _conv(kernel), _tokens(sum(sizes))
    whole, whole_state = conv(x, conv.init_state(BATCH))
    state, parts = conv.init_state(BATCH), []
    for part in x.split(sizes, 1):
        z, state = conv(part, state)
        parts.append(z)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=EXACT)
    assert torch.equal(state.tail, whole_state.tail)
    assert state.position == sum(sizes)


def test_a_token_changes_nothing_before_it_and_reaches_the_kernel() -> None:
    conv, x = _conv(4), _tokens(20)
    changed = x.clone()
    changed[:, 9] += 1e3
    differs = (conv(x)[0] != conv(changed)[0]).any(-1).any(0)
    assert differs.nonzero().flatten().tolist() == [9, 10, 11, 12]


def test_state_is_untouched_and_holds_only_its_own_memory() -> None:
    conv = _conv(4)
    _, state = conv(_tokens(100))
    saved = state.tail.clone()
    conv(_tokens(5), state)
    assert torch.equal(state.tail, saved)
    assert state.tail.untyped_storage().nbytes() == saved.numel() * saved.element_size()


def test_gradients_reach_input_tail_and_parameters() -> None:
    conv = _conv(4)
    inputs = [_tokens(3).requires_grad_(), _tokens(3, seed=2).requires_grad_()]

    def call(x: Tensor, tail: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        z, after = conv(x, State(tail=tail, position=3))
        return z, after.tail

    assert torch.autograd.gradcheck(call, (*inputs, *conv.parameters()))


def test_survives_copies_casts_autocast_export_and_marks() -> None:
    conv, x = _conv(4), _tokens(10)
    z, state = conv(x)
    twin = CausalConv(WIDTH).double()
    twin.load_state_dict(copy.deepcopy(conv).state_dict())
    assert torch.equal(twin(x)[0], z)
    with torch.no_grad():
        assert torch.equal(conv(x)[0], z)
    exported, after = torch.export.export(conv, (x, state)).module()(x, state)
    assert torch.equal(exported, conv(x, state)[0])
    assert after.position == 20
    fresh = conv.init_state(BATCH)
    with Tape() as tape:
        loss = autodiff(lambda conv, x, state: conv(x, state)[0].sum())(conv, x, fresh)
    assert all(gradient is not None for gradient in tape.grad(loss, dict(conv.named_parameters())).values())
    single = conv.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        after = single(x.bfloat16(), single.init_state(BATCH))[1]
    assert after.tail.dtype == torch.float32  # the state keeps its dtype
    half, after = single.bfloat16()(x.bfloat16())
    assert half.dtype == after.tail.dtype == torch.bfloat16


@pytest.mark.parametrize(("width", "kernel"), [(0, 4), (4, 0)])
def test_impossible_settings_are_one_line(width: int, kernel: int) -> None:
    with pytest.raises(CompositionError, match="convolution: width"):
        CausalConv(width, kernel)
