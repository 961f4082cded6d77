"""The MLP structure: its pullback is the gradient, its limits are other structures."""

import pytest
import torch

from hecate_core.errors import CompositionError, InputError
from hecate_core.knobs.activations import ACTIVATIONS, with_slope
from hecate_core.knobs.mlp import MLP
from hecate_core.parameters import initial_params
from hecate_core.records import Params
from hecate_core.weights import Shared
from hecate_core.widths import full_widths

WIDTHS = {"H": 2, "K": 4, "V": 4}
SHAPES = [
    {"depth": 1},
    {"depth": 2},
    {"depth": 3, "activation": "silu"},
    {"depth": 2, "residual": True, "norm": True},
    {"depth": 3, "norm": True, "expansion": 0.5},
    {"depth": 1, "norm": True},
]


def made(options: dict[str, object]) -> tuple[MLP, Params, torch.Tensor]:
    torch.manual_seed(3)
    mlp = MLP(**options)  # type: ignore[arg-type]
    params = initial_params(mlp, WIDTHS, seed=1, dtype=torch.float64)  # type: ignore[arg-type]
    if "norm_scale" in params:
        params = params.replace(norm_scale=params.norm_scale + 0.3 * torch.randn(2, 4, dtype=torch.float64))
    return mlp, params, torch.randn(3, 2, 5, 4, dtype=torch.float64)


def weights_of(mlp: MLP, params: Params) -> dict[str, torch.Tensor]:
    return {name: params[name].expand(3, *params[name].shape).clone().requires_grad_() for name in mlp.layers}


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_pullback_and_input_make_the_gradient_of_every_weight(options: dict[str, object]) -> None:
    mlp, params, x = made(options)
    weights = weights_of(mlp, params)
    prediction, trace = mlp.trace(params, Shared(weights), x)
    d = torch.randn_like(prediction)
    pulled = mlp.pullback(params, Shared(weights), trace, d)
    expected = torch.autograd.grad((prediction * d).sum(), list(weights.values()))
    for name, gradient in zip(weights, expected, strict=True):
        assert torch.allclose(pulled[name].mT @ trace[name][0], gradient, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_outer_gradient_of_the_pullback_agrees_with_finite_differences(options: dict[str, object]) -> None:
    mlp, params, x = made(options)
    weights = weights_of(mlp, params)

    def inner(x: torch.Tensor, d: torch.Tensor, *flat: torch.Tensor) -> torch.Tensor:
        seen = Shared(dict(zip(weights, flat, strict=True)))
        pulled = mlp.pullback(params, seen, mlp.trace(params, seen, x)[1], d)
        return torch.cat([pulled[name].flatten() for name in sorted(pulled)])

    x = x[:1, :, :2].clone().requires_grad_()
    d = torch.randn(1, 2, 2, 4, dtype=torch.float64, requires_grad=True)
    flat = [weight[:1].detach().requires_grad_() for weight in weights.values()]
    assert torch.autograd.gradcheck(inner, (x, d, *flat), fast_mode=True)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_slope_and_bend_are_the_first_two_derivatives(name: str) -> None:
    of = ACTIVATIONS[name]
    z = torch.linspace(-6, 6, 41, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(of.value(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    value, slope = with_slope(of, z)
    assert torch.allclose(value, of.value(z), atol=1e-13)
    assert torch.allclose(slope, first, atol=1e-13)
    assert torch.allclose(torch.autograd.grad((value + slope).sum(), z)[0], first + second, atol=1e-13)


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_prediction_alone_is_the_prediction_of_the_trace(options: dict[str, object]) -> None:
    mlp, params, x = made(options)
    weights = Shared(weights_of(mlp, params))
    assert torch.allclose(mlp.predict(params, weights, x), mlp.trace(params, weights, x)[0], atol=1e-14)


def test_one_plain_layer_is_the_matrix() -> None:
    mlp, params, x = made({"depth": 1})
    assert mlp.linear
    assert not mlp.widths
    weights = weights_of(mlp, params)
    assert torch.equal(mlp.trace(params, Shared(weights), x)[0], x @ weights["w1"].mT)
    assert not MLP(depth=1, norm=True).linear
    assert not MLP(depth=1, residual=True).linear


def test_hidden_width_follows_from_the_key_width() -> None:
    assert full_widths(MLP(expansion=4.0), WIDTHS)["F"] == 16
    assert full_widths(MLP(), {**WIDTHS, "F": 7})["F"] == 7
    with pytest.raises(InputError, match="whole number"):
        full_widths(MLP(expansion=0.3), WIDTHS)
    with pytest.raises(InputError, match="give K"):
        full_widths(MLP(), {"H": 1})


def test_wrong_options_are_refused() -> None:
    with pytest.raises(CompositionError, match='did you mean "gelu"'):
        MLP(activation="gleu")
    with pytest.raises(CompositionError, match="depth = 0"):
        MLP(depth=0)
    with pytest.raises(CompositionError, match="expansion"):
        MLP(expansion=0.0)


def test_residual_wants_values_as_wide_as_keys() -> None:
    mlp = MLP(residual=True)
    params = initial_params(mlp, {"H": 1, "K": 4, "V": 3})  # type: ignore[arg-type]
    weights = {name: params[name].unsqueeze(0) for name in mlp.layers}
    with pytest.raises(InputError, match="values as wide as keys"):
        mlp.trace(params, Shared(weights), torch.zeros(1, 1, 2, 4))
