"""Deep Titans against a loop that knows nothing of structures: inner gradients by autograd."""

import pytest
import torch
from hecate_titans.deep import titans_deep
from hecate_titans.titans import titans

from hecate_core.api import ComposedRule, Params, Tokens
from hecate_core.forms import Affine, Refused
from hecate_core.parameters import initial_params
from hecate_core.strategies.chunkwise import Chunkwise
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential

WIDTHS = {"H": 2, "K": 4, "V": 4}
EXACT = 1e-12  # float64: a few hundred operations deep


def tokens(count: int, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    unit = torch.nn.functional.normalize
    return Tokens(
        q=unit(draw(2, 2, count, 4), dim=-1),
        k=unit(draw(2, 2, count, 4), dim=-1),
        v=draw(2, 2, count, 4),
        retain=torch.sigmoid(draw(2, 2, count) + 3),
        write=0.2 * torch.sigmoid(draw(2, 2, count)),
        momentum=torch.sigmoid(draw(2, 2, count)),
    )


def setup(**options: object) -> tuple[ComposedRule, Params]:
    rule = titans_deep(**options)  # type: ignore[arg-type]
    return rule, initial_params(rule, WIDTHS, seed=5, dtype=torch.float64)


def network(weights: list[torch.Tensor], x: torch.Tensor, activation: str, norm: bool, residual: bool) -> torch.Tensor:
    act = {"gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu}[activation]
    h = x
    for i, weight in enumerate(weights):
        h = torch.einsum("bhij,bhj->bhi", weight, h if i == 0 else act(h))
    if norm:
        h = (h - h.mean(-1, keepdim=True)) / torch.sqrt(h.var(-1, unbiased=False, keepdim=True) + 1e-5)
    return h + x if residual else h


def oracle(
    params: Params,
    one: Tokens,
    *,
    depth: int = 2,
    activation: str = "gelu",
    norm: bool = False,
    residual: bool = False,
    chunk: int = 1,
) -> torch.Tensor:
    """Titans Eq. 13-14 per weight; the gradient at the memory that each chunk of `chunk` tokens began with."""
    w = [params[f"w{i + 1}"].expand(2, -1, -1, -1).clone().requires_grad_() for i in range(depth)]
    s = [torch.zeros_like(one) for one in w]
    reads, anchor = [], w
    for t in range(one.k.shape[2]):
        anchor = w if t % chunk == 0 else anchor
        error = network(anchor, one.k[:, :, t], activation, norm, residual) - one.v[:, :, t]
        gradients = torch.autograd.grad(0.5 * error.square().sum(), anchor, create_graph=True)
        a, h, th = (gate[:, :, t, None, None] for gate in (one.retain, one.momentum, one.write))
        s = [h * si - th * gi for si, gi in zip(s, gradients, strict=True)]
        w = [a * wi + si for wi, si in zip(w, s, strict=True)]
        reads.append(network(w, one.q[:, :, t], activation, norm, residual))
    return torch.stack(reads, 2)


def run(strategy: object, rule: ComposedRule, params: Params, one: Tokens, cuts: tuple[int, ...] = ()) -> torch.Tensor:
    state, reads = strategy.init_state(rule, params, 2), []  # type: ignore[attr-defined]
    for a, b in zip((0, *cuts), (*cuts, one.k.shape[2]), strict=True):
        y, state = strategy(rule, params, one.map(lambda x, a=a, b=b: x[:, :, a:b]), state)  # type: ignore[operator,misc]
        reads.append(y)
    return torch.cat(reads, 2)


OPTIONS = [
    {"depth": 2},
    {"depth": 3, "activation": "silu"},
    {"depth": 2, "norm": True, "residual": True},
    {"depth": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("chunk", [1, 5])
def test_frozen_is_the_loop_that_takes_gradients_at_chunk_starts(options: dict[str, object], chunk: int) -> None:
    rule, params = setup(**options)
    one = tokens(13)
    expected = oracle(params, one, chunk=chunk, **options)  # type: ignore[arg-type]
    assert torch.allclose(run(Frozen(chunk=chunk), rule, params, one), expected, rtol=EXACT, atol=EXACT)
    assert torch.allclose(run(Frozen(chunk=chunk), rule, params, one, (3, 4, 11)), expected, rtol=EXACT, atol=EXACT)
    if chunk == 1:
        assert torch.allclose(run(Sequential(), rule, params, one), expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
@pytest.mark.parametrize("chunk", [1, 5])
def test_outer_gradients_are_those_of_the_loop(options: dict[str, object], chunk: int) -> None:
    rule, params = setup(**options)
    one, params = tokens(7).map(lambda x: x.requires_grad_()), params.map(lambda x: x.requires_grad_())
    leaves = [*one.values(), *(params[name] for name in rule.structure.layers)]
    strategy = Sequential() if chunk == 1 else Frozen(chunk=chunk)
    weight = torch.randn(2, 2, 7, 4, dtype=torch.float64)
    found = torch.autograd.grad((run(strategy, rule, params, one) * weight).sum(), leaves)
    expected = torch.autograd.grad((oracle(params, one, chunk=chunk, **options) * weight).sum(), leaves)  # type: ignore[arg-type]
    for f, e in zip(found, expected, strict=True):
        assert torch.allclose(f, e, rtol=1e-10, atol=1e-11)


def test_one_layer_is_titans_with_a_matrix_in_its_exact_chunk_form() -> None:
    rule, params = setup(depth=1)
    matrix = titans(learn_start=True)
    one = tokens(11)
    deep = run(Chunkwise(chunk=4), rule, params, one)
    assert torch.allclose(deep, run(Sequential(), matrix, Params(matrix=params.w1), one), rtol=EXACT, atol=EXACT)


def test_exact_chunk_form_is_refused_because_of_the_structure() -> None:
    answer = titans_deep().offers(Affine)
    assert isinstance(answer, Refused)
    assert "structure" in answer.reason


def test_gap_of_frozen_gradients_is_second_order_in_the_rate_without_decay() -> None:
    rule, params = setup()
    one = tokens(8)

    def gap(rate: float) -> float:
        slow = one.replace(write=torch.full_like(one.write, rate), retain=torch.ones_like(one.retain))
        exact = run(Sequential(), rule, params, slow)
        return float((run(Frozen(chunk=8), rule, params, slow) - exact).norm())

    assert 3.7 < gap(1e-3) / gap(5e-4) < 4.3


def test_masked_tokens_change_nothing() -> None:
    rule, params = setup()
    one = tokens(9)
    due = torch.rand(2, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    for strategy in (Sequential(), Frozen(chunk=1)):
        y, _ = strategy(rule, params, one, strategy.init_state(rule, params, 2), due)
        row = one.map(lambda x: x[:1, :, due[0]])
        alone, _ = strategy(rule, params, row, strategy.init_state(rule, params, 1))
        assert torch.allclose(y[:1, :, due[0]], alone, rtol=EXACT, atol=EXACT)
