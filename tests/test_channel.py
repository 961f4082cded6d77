"""The channel MLP against its formula, token by token, and through PyTorch's doors."""

import copy

import pytest
import torch
from torch import Tensor

from hecate_core.channel import SwiGLU
from hecate_core.differentiation import Tape, autodiff
from hecate_core.errors import CompositionError


@pytest.fixture
def mlp() -> SwiGLU:
    torch.manual_seed(0)
    return SwiGLU(6, 2.0).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_equals_its_formula(mlp: SwiGLU, x: Tensor) -> None:
    gate, value = mlp.up.weight.split(12)
    a = x @ gate.T
    expected = (a * torch.sigmoid(a) * (x @ value.T)) @ mlp.down.weight.T
    torch.testing.assert_close(mlp(x), expected, rtol=0, atol=1e-12)


def test_every_token_by_itself(mlp: SwiGLU, x: Tensor) -> None:
    changed = x.clone()
    changed[:, 3] += 1.0
    differs = (mlp(x) != mlp(changed)).any(-1).any(0)
    assert differs.nonzero().flatten().tolist() == [3]
    assert mlp(x[:, :0]).shape == (2, 0, 6)


def test_survives_copies_casts_autocast_export_and_marks(mlp: SwiGLU, x: Tensor) -> None:
    y = mlp(x)
    assert y.dtype == torch.float64
    twin = SwiGLU(6, 2.0).double()
    twin.load_state_dict(copy.deepcopy(mlp).state_dict())
    assert torch.equal(twin(x), y)
    assert torch.equal(torch.export.export(mlp, (x,)).module()(x), y)
    with Tape() as tape:
        loss = autodiff(lambda mlp, x: mlp(x).sum())(mlp, x)
    assert all(gradient is not None for gradient in tape.grad(loss, dict(mlp.named_parameters())).values())
    single = mlp.float()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert single(x.float()).dtype == torch.bfloat16
    assert single.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_a_small_expansion_keeps_one_hidden_channel_and_a_negative_one_is_refused() -> None:
    assert SwiGLU(4, 0.01).down.weight.shape == (4, 1)
    with pytest.raises(CompositionError, match="channel: width 4, expansion -1"):
        SwiGLU(4, -1)
