"""`MemoryLayer` in anybody's model: copies, files, dtypes, gradient modes, export, and what it refuses."""

import copy
import io
import re
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load, save

from hecate_core import MemoryLayer
from hecate_core.composing import rule_of
from hecate_core.errors import CompositionError, InputError
from hecate_core.forms import Linearised, Refused
from hecate_core.records import State
from hecate_core.registry import registry
from hecate_core.shapes import Tensor
from hecate_core.testing.members import strategies_of

from .sequences import relative

RULES = registry().names("rule")
CELLS = [(rule, strategy) for rule in RULES for strategy, _ in strategies_of(rule_of(rule))]
LEVELS = (1, 2)
BF16 = 6e-2  # bfloat16 keeps 8 bits: some roundings of 4e-3 in projections, convolution and gates
MODES = 1e-5  # float32: one rounding, grown by a memory that feeds back
EXPORT = 1e-6  # float32: the exported graph may order a sum differently


def layer_of(rule: str, strategy: str = "sequential", **options: object) -> MemoryLayer:
    slots = {"M": 3} if "M" in rule_of(rule).inputs.values() else {}
    given = {"levels": LEVELS, "chunk": 4, "conv": 3, "widths": slots, **options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MemoryLayer(8, 2, rule=rule, strategy=strategy, **given)


def sentence(count: int = 9, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, count, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def bfloat16_bound(layer: MemoryLayer, x: Tensor) -> float:
    """BF16, or more where the float32 layer itself answers a relative change of 2^-9 in its input by more."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        moved = relative(layer(x * (1.0 + 2.0**-9 * noise))[0], layer(x)[0])
    return max(BF16, 10.0 * moved)


def same(one: tuple[Tensor, State], two: tuple[Tensor, State]) -> bool:
    first, second = one[1].flat(), two[1].flat()
    return torch.equal(one[0], two[0]) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("rule", "strategy"), CELLS)
def test_a_deepcopy_computes_the_same_and_shares_nothing(rule: str, strategy: str) -> None:
    layer = layer_of(rule, strategy)
    twin, x = copy.deepcopy(layer), sentence()
    assert same(twin(x), layer(x))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()  # hecate: allow CS-47 -- weights of a layer made in this test
    assert not same(twin(x), layer(x))


@pytest.mark.parametrize("rule", RULES)
def test_a_state_dict_goes_through_a_file_and_back(rule: str) -> None:
    layer, other, x = layer_of(rule), layer_of(rule), sentence()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)  # hecate: allow CS-47 -- weights of a layer made in this test
    other.load_state_dict(load(save(layer.state_dict())))
    assert same(other(x), layer(x))
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    other.load_state_dict(torch.load(stored, weights_only=True))
    assert same(other(x), layer(x))


def precisions(state: State) -> set[torch.dtype]:
    """The dtypes of what memories are; masks among them have no digits."""
    kept = (one for name, one in state.flat().items() if ".rule." in name)
    return {one.dtype for one in kept if one.is_floating_point()}


@pytest.mark.parametrize(("rule", "strategy"), CELLS)
def test_bfloat16_keeps_the_memory_in_float32(rule: str, strategy: str) -> None:
    layer, x = layer_of(rule, strategy), sentence()
    expected, _ = layer(x)
    y, state = copy.deepcopy(layer).to(torch.bfloat16)(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert precisions(state) == {torch.float32}
    assert relative(y.detach().float(), expected.detach()) < bfloat16_bound(layer, x)


@pytest.mark.parametrize(("rule", "strategy"), CELLS)
def test_autocast_stays_near_float32_and_gives_gradients(rule: str, strategy: str) -> None:
    layer, x = layer_of(rule, strategy), sentence()
    expected, _ = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(x)
    assert relative(y.detach().float(), expected.detach()) < bfloat16_bound(layer, x)
    assert precisions(state) == {torch.float32}
    y.float().square().sum().backward()
    for name, parameter in layer.named_parameters():
        if parameter.numel():  # a rule without gates has an empty head
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name


@pytest.mark.parametrize(("rule", "strategy"), CELLS)
def test_gradient_modes_change_nothing(rule: str, strategy: str) -> None:
    """Without gradients an activation may be computed by another kernel, which rounds in its own way."""
    layer, x = layer_of(rule, strategy), sentence()
    expected = layer(x)
    assert expected[0].requires_grad
    found = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found.append(layer(x))
        assert not found[-1][0].requires_grad
    assert same(found[0], found[1])
    assert relative(found[0][0], expected[0].detach()) < MODES
    layer.eval()
    assert same(layer(x), expected)


@pytest.mark.parametrize(("rule", "strategy"), CELLS)
def test_an_export_at_a_fixed_length_and_position_equals_eager(rule: str, strategy: str) -> None:
    layer = layer_of(rule, strategy).eval()
    with torch.no_grad():
        _, state = layer(sentence(2))
        assert state.position == 2
        x = sentence(3)
        program = torch.export.export(layer, (x, state))
        y, after = program.module()(x, state)
        expected, end = layer(x, state)
    assert relative(y, expected) < EXPORT
    assert after.position == end.position == 5
    for name, tensor in end.flat().items():
        assert relative(after.flat()[name], tensor) < EXPORT, name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_input_is_refused_in_one_line(value: float) -> None:
    layer, x = layer_of("linear"), sentence()
    x[1, 4, 2] = value
    kind = "NaN" if value != value else "Inf"
    with pytest.raises(InputError, match=f"^MemoryLayer: x holds {kind}; expected finite numbers$"):
        layer(x)


@pytest.mark.parametrize(
    ("rule", "widths", "line"),
    [
        ("delta", {"M": 3}, 'widths.M = 3: rule "delta" has no such width to choose; expected K'),
        ("trellis", {"Q": 3}, 'widths.Q = 3: rule "trellis" has no such width to choose; expected K or M'),
        ("omega", {"L": 3}, 'widths.L = 3: rule "omega" has no such width to choose; expected K'),
        ("delta", {"K": 0}, "widths.K = 0; expected an integer >= 1"),
        ("delta", {"K": 2.0}, "widths.K = 2.0; expected an integer >= 1"),
        ("delta", {"V": 5}, "widths.V = 5: V = 4 follows from width 8 and 2 heads; leave it out"),
        ("delta", {"H": 1}, "widths.H = 1: H = 2 follows from width 8 and 2 heads; leave it out"),
    ],
)
def test_a_width_that_is_nobody_s_to_choose_is_refused(rule: str, widths: dict[str, int], line: str) -> None:
    with pytest.raises(CompositionError, match=f"^{re.escape(line)}$"):
        layer_of(rule, widths=widths)


@pytest.mark.parametrize("shape", [(9, 8), (2, 9, 7), (2, 9, 8, 1), (8,)])
def test_a_wrong_shape_is_refused_in_one_line(shape: tuple[int, ...]) -> None:
    expected = re.escape(f"MemoryLayer: x is {list(shape)}; expected [B, T, 8]")
    with pytest.raises(InputError, match=f"^{expected}$"):
        layer_of("linear")(torch.zeros(shape))


@pytest.mark.parametrize(("rule", "strategy"), CELLS)
def test_no_token_changes_nothing_and_one_token_is_a_call(rule: str, strategy: str) -> None:
    layer, x = layer_of(rule, strategy), sentence()
    _, state = layer(x)
    y, after = layer(x[:, :0], state)
    assert y.shape == (2, 0, 8)
    assert after.position == state.position
    assert all(torch.equal(after.flat()[name], one) for name, one in state.flat().items())
    y, after = layer(x[:, :1], state)
    assert y.shape == (2, 1, 8)
    assert after.position == state.position + 1
    assert layer(x[:, :0])[0].shape == (2, 0, 8)


def projection(rule: str) -> Callable[[Tensor], Tensor] | None:
    """What brings a rule's memory back to its domain at chunk ends, None for most."""
    form = rule_of(rule).offers(Linearised)
    return None if isinstance(form, Refused) else form.project


def settled(rule: str, state: State) -> dict[str, Tensor]:
    """The state's tensors by name, memories in their domain: inside a chunk they may be stored outside."""
    back = projection(rule)
    return {name: back(one) if back and ".rule.memory" in name else one for name, one in state.flat().items()}


@pytest.mark.parametrize(("rule", "strategy"), CELLS)
def test_a_write_mask_lets_the_memory_rest_and_the_reads_go_on(rule: str, strategy: str) -> None:
    layer, x = layer_of(rule, strategy, levels=(1,)), sentence()
    _, state = layer(x)
    y, after = layer(x, state, torch.zeros(2, 9, dtype=torch.bool))
    assert bool(y.abs().max() > 0)
    before = settled(rule, state)
    for name, one in settled(rule, after).items():
        if ".rule.memory" in name or ".rule.momentum" in name:
            assert relative(one, before[name]) <= (0.0 if projection(rule) is None else 1e-6), name  # float32
    row = torch.tensor([[True], [False]]).expand(2, 9)
    _, mixed = layer(x, state, row)
    written = settled(rule, layer(x, state)[1])
    for name, one in settled(rule, mixed).items():
        if ".rule.memory" in name:
            close = torch.equal if projection(rule) is None else torch.allclose
            assert close(one[1], before[name][1]), name
            assert relative(one[0].detach(), written[name][0].detach()) < 1e-5, name
            assert not torch.equal(one[0], before[name][0]), name


@pytest.mark.parametrize("rule", RULES)
def test_gradients_reach_every_parameter_and_the_carried_state(rule: str) -> None:
    layer, x = layer_of(rule), sentence()
    y, state = layer(x)
    y.square().sum().backward()
    for name, parameter in layer.named_parameters():
        if parameter.numel():
            assert parameter.grad is not None, name
            assert bool((parameter.grad != 0).any()), name
    state = state.map(lambda one: one.detach().requires_grad_())
    layer(x, state)[0].square().sum().backward()
    assert all(one.grad is not None for name, one in state.flat().items() if ".rule.memory" in name)


def test_two_calls_with_the_state_between_them_are_one() -> None:
    layer, x = layer_of("titans", "chunkwise").double(), sentence(dtype=torch.float64)
    whole, end = layer(x)
    first, state = layer(x[:, :4])
    second, after = layer(x[:, 4:], state)
    assert relative(torch.cat((first, second), 1).detach(), whole.detach()) < 1e-10
    assert after.position == end.position == 9


@pytest.mark.parametrize("rule", ["titans", "delta", "omega"])
def test_compiled_it_computes_the_same_over_several_chunks(rule: str) -> None:
    """aot_eager sees through the ops; what is written into views must not get lost there."""
    layer = MemoryLayer(16, rule=rule, heads=2, chunk=8)
    x = torch.randn(2, 40, 16)
    with torch.no_grad():
        wanted, _ = layer(x)
        found, _ = torch.compile(layer, backend="aot_eager")(x)
    torch.compiler.reset()
    assert float((found - wanted).abs().max()) < 1e-5
