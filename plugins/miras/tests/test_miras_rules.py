"""MONETA, YAAD and MEMORA against loops that know nothing of knobs: inner gradients of the losses by autograd."""

from collections.abc import Callable

import pytest
import torch
from hecate_miras.lp import Lp
from hecate_miras.lq import Lq
from hecate_miras.memora import memora
from hecate_miras.moneta import moneta
from hecate_miras.yaad import yaad

from hecate_core.api import L2, MLP, ComposedRule, GradientDescent, Matrix, Momentum, Params, Tensor, Tokens
from hecate_core.composing import rule_of
from hecate_core.forms import Affine, Refused
from hecate_core.parameters import initial_params
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential

WIDTHS = {"H": 2, "K": 4, "V": 4}
EXACT = 1e-11  # float64; MONETA's link magnifies rounding by its degree

Weights = dict[str, Tensor]
Network = Callable[[Weights, Tensor], Tensor]


def tokens(count: int, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    unit = torch.nn.functional.normalize
    return Tokens(
        q=unit(draw(2, 2, count, 4), dim=-1),
        k=unit(draw(2, 2, count, 4), dim=-1),
        v=draw(2, 2, count, 4),
        threshold=2.0 * torch.sigmoid(draw(2, 2, count)) + 0.5,
        retain=torch.sigmoid(draw(2, 2, count) + 3),
        write=0.1 * torch.sigmoid(draw(2, 2, count)),
    )


def network(w: Weights, x: Tensor) -> Tensor:
    """x + LN(W2 gelu(W1 x)), written out."""
    z = torch.einsum("bhvf,bhf->bhv", w["w2"], torch.nn.functional.gelu(torch.einsum("bhfk,bhk->bhf", w["w1"], x)))
    return x + (z - z.mean(-1, keepdim=True)) / torch.sqrt(z.var(-1, unbiased=False, keepdim=True) + 1e-5)


def cubic(e: Tensor, one: Tokens, t: int) -> Tensor:
    return e.abs().pow(3.0).sum()


def square(e: Tensor, one: Tokens, t: int) -> Tensor:
    return 0.5 * e.square().sum()


def switched(e: Tensor, one: Tokens, t: int) -> Tensor:
    """1/2 |e|^2, or threshold times the smooth l1 loss; the switch itself has no gradient."""
    threshold = one.threshold[:, :, t] * e.shape[-1] ** 0.5  # of a root mean square
    small = e.detach().norm(dim=-1) <= threshold
    flat = threshold * (torch.log(torch.cosh(10.0 * e)) / 10.0).sum(-1)
    return torch.where(small, 0.5 * e.square().sum(-1), flat).sum()


def four_norm(a: Tensor) -> Tensor:
    return a.pow(4).sum((-2, -1), keepdim=True).pow(0.25)


LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "printed": lambda a: a / four_norm(a) ** 2,
    "dual": lambda a: a**3 / four_norm(a) ** 2,
    "softmax": lambda a: 2.0 * a.exp() / a.exp().sum(-2, keepdim=True),
    "none": lambda a: a,
}
# (rule, loss, link, what is stored for given parameters)
RULES: dict[str, tuple[ComposedRule, Callable[..., Tensor], str, Callable[[Tensor], Tensor]]] = {
    "moneta": (moneta(smooth=False), cubic, "printed", lambda w: w / four_norm(w) ** 2),
    "moneta-dual": (
        moneta(smooth=False, link="dual"),
        cubic,
        "dual",
        lambda w: w.sign() * w.abs() ** (1 / 3) * (w.abs() ** (4 / 3)).sum((-2, -1), keepdim=True) ** 0.5,
    ),
    "yaad": (yaad(), switched, "none", lambda w: w),
    "memora": (memora(mass=2.0), square, "softmax", lambda w: w),
}


def oracle(name: str, params: Params, one: Tokens, chunk: int, net: Network = network) -> Tensor:
    """A <- retain A - write grad, W = link(A), the gradient at the W that each chunk of `chunk` began with."""
    _, loss, which, stored = RULES[name]
    link = LINKS[which]
    a = {layer: stored(params[layer].expand(2, *params[layer].shape)) for layer in ("w1", "w2")}
    reads, anchor = [], {}
    for t in range(one.k.shape[2]):
        if t % chunk == 0:
            anchor = {layer: link(matrix) for layer, matrix in a.items()}
            anchor = {layer: w if w.requires_grad else w.requires_grad_() for layer, w in anchor.items()}
        value = loss(net(anchor, one.k[:, :, t]) - one.v[:, :, t], one, t)
        gradients = torch.autograd.grad(value, list(anchor.values()), create_graph=True)
        keep, write = one.retain[:, :, t, None, None], one.write[:, :, t, None, None]
        a = {layer: keep * a[layer] - write * g for layer, g in zip(a, gradients, strict=True)}
        reads.append(net({layer: link(matrix) for layer, matrix in a.items()}, one.q[:, :, t]))
    return torch.stack(reads, 2)


def run(strategy: object, rule: ComposedRule, params: Params, one: Tokens, cuts: tuple[int, ...] = ()) -> Tensor:
    state, reads = strategy.init_state(rule, params, 2), []  # type: ignore[attr-defined]
    for a, b in zip((0, *cuts), (*cuts, one.k.shape[2]), strict=True):
        y, state = strategy(rule, params, one.map(lambda x, a=a, b=b: x[:, :, a:b]), state)  # type: ignore[operator,misc]
        reads.append(y)
    return torch.cat(reads, 2)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("chunk", [1, 4])
def test_frozen_is_the_loop_however_the_text_is_cut(name: str, chunk: int) -> None:
    rule = RULES[name][0]
    params, one = initial_params(rule, WIDTHS, seed=5, dtype=torch.float64), tokens(11)
    expected = oracle(name, params, one, chunk)
    assert torch.allclose(run(Frozen(chunk=chunk), rule, params, one), expected, rtol=EXACT, atol=EXACT)
    assert torch.allclose(run(Frozen(chunk=chunk), rule, params, one, (3, 4, 9)), expected, rtol=EXACT, atol=EXACT)
    if chunk == 1:
        assert torch.allclose(run(Sequential(), rule, params, one), expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("chunk", [1, 3])
def test_outer_gradients_are_those_of_the_loop(name: str, chunk: int) -> None:
    rule = RULES[name][0]
    params = initial_params(rule, WIDTHS, seed=5, dtype=torch.float64).map(lambda x: x.requires_grad_())
    one = tokens(5).map(lambda x: x.requires_grad_())
    wanted = [one[key] for key in ("q", "k", "v", *rule.gates)] + [params.w1, params.w2]
    weight = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    strategy = Sequential() if chunk == 1 else Frozen(chunk=chunk)
    found = torch.autograd.grad((run(strategy, rule, params, one) * weight).sum(), wanted)
    expected = torch.autograd.grad((oracle(name, params, one, chunk) * weight).sum(), wanted)
    for f, e in zip(found, expected, strict=True):
        assert torch.allclose(f, e, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("rule", [moneta(), moneta(link="exact"), yaad(), yaad(form="norm"), memora()])
def test_outer_gradients_agree_with_finite_differences_along_a_direction(rule: ComposedRule) -> None:
    params, one = initial_params(rule, WIDTHS, seed=5, dtype=torch.float64), tokens(4)
    leaves = {**one.flat(), **params.flat()}
    g = torch.Generator().manual_seed(2)
    along = {key: torch.randn(x.shape, generator=g, dtype=torch.float64) for key, x in leaves.items()}

    def loss(step: Tensor) -> Tensor:
        moved = {key: x + step * along[key] for key, x in leaves.items()}
        now = Tokens.of({key: moved[key] for key in one})
        return run(Frozen(chunk=2), rule, Params.of({key: moved[key] for key in params}), now).sin().sum()

    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(loss(zero), zero)
    h = torch.tensor(1e-7, dtype=torch.float64)
    expected = (loss(h) - loss(-h)) / (2 * h)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["moneta", "memora"])
def test_link_once_per_chunk_goes_through_the_link_at_first_tokens_only(name: str) -> None:
    rule, _, which, _ = RULES[name]
    params, one = initial_params(rule, WIDTHS, seed=5, dtype=torch.float64), tokens(9)
    once = Frozen(chunk=4, link="chunk")
    assert torch.allclose(run(Frozen(chunk=1, link="chunk"), rule, params, one), run(Sequential(), rule, params, one))
    whole = run(once, rule, params, one)
    assert torch.allclose(run(once, rule, params, one, (1, 2, 6)), whole, rtol=EXACT, atol=EXACT)
    assert not torch.allclose(whole, run(Frozen(chunk=4), rule, params, one), rtol=1e-6)

    # The first chunk by hand: A and the weights seen run beside each other from the first token's W = link(A).
    link, a = LINKS[which], dict(once.init_state(rule, params, 2).memory)
    anchor, seen = {key: link(x) for key, x in a.items()}, {}
    for t in range(4):
        anchor = {key: x.detach().requires_grad_() for key, x in anchor.items()}
        error = network(anchor, one.k[:, :, t]) - one.v[:, :, t]
        gradients = torch.autograd.grad(RULES[name][1](error, one, t), list(anchor.values()))
        keep, write = one.retain[:, :, t, None, None], one.write[:, :, t, None, None]
        moves = {key: -write * g for key, g in zip(a, gradients, strict=True)}
        a = {key: keep * a[key] + moves[key] for key in a}
        seen = {key: link(a[key]) if t == 0 else keep * seen[key] + moves[key] for key in a}
        anchor = seen if t == 0 else anchor
        assert torch.allclose(network(seen, one.q[:, :, t]), whole[:, :, t], rtol=1e-9, atol=1e-10)


def test_link_once_per_chunk_carries_a_momentum_into_both_weights() -> None:
    """A and the weights seen take the same S at every token of a chunk, from the same S before it."""
    rule = ComposedRule("m", structure=MLP(), bias=L2(), retention=Lq(link="dual"), algorithm=Momentum())
    params, one = initial_params(rule, WIDTHS, seed=5, dtype=torch.float64), tokens(4)
    one = one.replace(momentum=torch.full_like(one.retain, 0.8))
    once = Frozen(chunk=4, link="chunk")
    whole, link = run(once, rule, params, one), LINKS["dual"]

    a = dict(once.init_state(rule, params, 2).memory)
    s = {key: torch.zeros_like(x) for key, x in a.items()}
    anchor, seen = {key: link(x) for key, x in a.items()}, {}
    gelu = torch.nn.functional.gelu
    for t in range(4):
        anchor = {key: x.detach().requires_grad_() for key, x in anchor.items()}
        k, q = one.k[:, :, t, :, None], one.q[:, :, t, :, None]
        error = (anchor["w2"] @ gelu(anchor["w1"] @ k)).squeeze(-1) - one.v[:, :, t]
        gradients = torch.autograd.grad(0.5 * error.square().sum(), list(anchor.values()))
        keep, write = one.retain[:, :, t, None, None], one.write[:, :, t, None, None]
        s = {key: 0.8 * s[key] - write * g for key, g in zip(a, gradients, strict=True)}
        a = {key: keep * a[key] + s[key] for key in a}
        seen = {key: link(a[key]) if t == 0 else keep * seen[key] + s[key] for key in a}
        anchor = seen if t == 0 else anchor
        assert torch.allclose((seen["w2"] @ gelu(seen["w1"] @ q)).squeeze(-1), whole[:, :, t], rtol=1e-9, atol=1e-11)


def matrix_rule(bias: Lp, retention: Lq) -> ComposedRule:
    return ComposedRule(
        "m", structure=Matrix(learn_start=True), bias=bias, retention=retention, algorithm=GradientDescent()
    )


@pytest.mark.parametrize("link", ["printed", "dual", "exact"])
def test_two_norms_on_a_matrix_are_the_delta_rule_at_twice_the_rate(link: str) -> None:
    rule = matrix_rule(Lp(p=2.0, smooth=False), Lq(q=2.0, link=link))
    delta = rule_of({"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "gd"})
    one = tokens(9)
    params = Params(matrix=torch.randn(2, 4, 4, dtype=torch.float64))
    twice = run(Sequential(), delta, params, one.replace(write=2.0 * one.write))  # type: ignore[arg-type]
    assert torch.allclose(run(Sequential(), rule, params, one), twice, rtol=1e-12, atol=1e-13)
    assert not isinstance(rule.offers(Affine), Refused)


@pytest.mark.parametrize("form", ["switch", "coordinate", "norm"])
def test_yaad_above_every_error_is_gradient_descent_on_the_square(form: str) -> None:
    rule, one = yaad(form=form), tokens(9)
    plain = ComposedRule(
        "plain",
        structure=rule.structure,
        bias=rule_of("delta").bias,  # type: ignore[attr-defined]
        retention=rule.retention,
        algorithm=rule.algorithm,
    )
    params = initial_params(rule, WIDTHS, seed=5, dtype=torch.float64)
    far = one.replace(threshold=torch.full_like(one.threshold, 1e6))
    assert torch.equal(run(Frozen(chunk=4), rule, params, far), run(Frozen(chunk=4), plain, params, far))


def test_memora_rests_with_retain_1_and_forgets_to_uniform_with_retain_0() -> None:
    rule = memora()
    params, one = initial_params(rule, WIDTHS, seed=5, dtype=torch.float64), tokens(3)
    silent = one.replace(write=torch.zeros_like(one.write), retain=torch.ones_like(one.retain))
    state = rule.init_state(params, 2)
    _, after = Sequential()(rule, params, silent, state)
    assert torch.equal(after.memory.w1, state.memory.w1)
    _, gone = Sequential()(rule, params, silent.replace(retain=torch.zeros_like(one.retain)), state)
    assert rule.retention.link is not None
    assert torch.equal(
        rule.retention.link(gone.memory.w1), torch.full_like(gone.memory.w1, 4.0 / 16.0)
    )  # its mass over 16 units


def test_equal_hidden_units_of_memora_stay_equal() -> None:
    """Why the first logits are noise: from a uniform start no unit ever differs from its neighbour."""
    rule = memora()
    params = initial_params(rule, WIDTHS, seed=5, dtype=torch.float64)
    params = params.replace(w1=torch.zeros_like(params.w1), w2=torch.zeros_like(params.w2))
    _, after = Sequential()(rule, params, tokens(5), rule.init_state(params, 2))
    first = after.memory.w1
    assert torch.allclose(first, first[:, :, :1].expand_as(first), atol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_exact_chunk_form_is_refused_with_a_reason(name: str) -> None:
    answer = RULES[name][0].offers(Affine)
    assert isinstance(answer, Refused)
    assert answer.reason.startswith("structure")
