"""Trellis against a loop whose inner gradients come from autograd, and its limit of two delta rules."""

import pytest
import torch
import torch.nn.functional as F
from hecate_trellis.maps import MAPS
from hecate_trellis.rule import Trellis

from hecate_core import memory
from hecate_core.api import Affine, Refused
from hecate_core.errors import CompositionError
from hecate_core.parameters import initial_params
from hecate_core.records import Params, Tokens
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential

WIDTHS = {"H": 2, "K": 4, "V": 5, "M": 3}
EXACT = 1e-11  # float64: a few hundred operations deep, two norms among them
OPTIONS = [
    {},
    {"out": "identity", "rate": "plain"},
    {"phi": "ln-silu", "f": "l2-silu"},
    {"phi": "l2-silu", "f": "softmax"},
    {"phi": "identity", "f": "identity", "rate": "plain"},
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def tokens(count: int, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return Tokens(
        q=F.normalize(draw(2, 2, count, 4), dim=-1),
        k=F.normalize(draw(2, 2, count, 4), dim=-1),
        v=draw(2, 2, count, 5),
        code=draw(2, 2, count, 3),
        retain=torch.sigmoid(draw(2, 2, count) + 3),
        write=0.1 * torch.sigmoid(draw(2, 2, count)),
    )


def setup(**options: str) -> tuple[Trellis, Params]:
    rule = Trellis(**options)
    return rule, initial_params(rule, WIDTHS, seed=3, dtype=torch.float64)


def mapped(name: str, z: torch.Tensor) -> torch.Tensor:
    if name == "identity":
        return z
    if name == "softmax":
        return z.softmax(-1)
    h = z * torch.sigmoid(z)
    if name == "l2-silu":
        return h / (h.square().sum(-1, keepdim=True) + 1e-5).sqrt()
    return F.layer_norm(h, h.shape[-1:]) if name == "ln-silu" else h


def oracle(params: Params, one: Tokens, options: dict[str, str], chunk: int = 1) -> torch.Tensor:
    """Eq. 1 to 4 with u w^T as autograd's gradient of 1/2 |phi(S w) - code|^2 at the chunk's first matrices."""
    phi, f = options.get("phi", "silu"), options.get("f", "ln-silu")
    out = phi if options.get("out", "phi") == "phi" else "identity"
    sk = params.keys_to_slots.expand(2, -1, -1, -1)
    sv = params.slots_to_values.mT.expand(2, -1, -1, -1)
    reads, anchors = [], (sk, sv)
    for t in range(one.k.shape[2]):
        anchors = (sk, sv) if t % chunk == 0 else anchors
        k, v, code, q = (x[:, :, t] for x in (one.k, one.v, one.code, one.q))
        loss = sum(
            0.5 * (mapped(phi, torch.einsum("bhmi,bhi->bhm", s, w)) - code).square().sum()
            for s, w in zip(anchors, (k, v), strict=True)
        )
        gk, gv = torch.autograd.grad(loss, anchors, create_graph=True)
        a, th = one.retain[:, :, t, None, None], one.write[:, :, t, None, None]
        length = v.square().sum(-1)[..., None, None].clamp(min=1.0)
        sk = a * sk - th * gk
        sv = a * sv - (th if options.get("rate") == "plain" else th / length) * gv
        slots = mapped(f, torch.einsum("bhmk,bhk->bhm", sk, q))
        reads.append(mapped(out, torch.einsum("bhmv,bhm->bhv", sv, slots)))
    return torch.stack(reads, 2)


def run(strategy: object, rule: Trellis, params: Params, one: Tokens, cuts: tuple[int, ...] = ()) -> torch.Tensor:
    state, reads = strategy.init_state(rule, params, 2), []  # type: ignore[attr-defined]
    for a, b in zip((0, *cuts), (*cuts, one.k.shape[2]), strict=True):
        y, state = strategy(rule, params, one.map(lambda x, a=a, b=b: x[:, :, a:b]), state)  # type: ignore[operator,misc]
        reads.append(y)
    return torch.cat(reads, 2)


def leaves(params: Params) -> Params:
    return params.map(lambda x: x.clone().requires_grad_())


@every_option
@pytest.mark.parametrize("chunk", [1, 4])
def test_frozen_is_the_loop_and_with_chunk_1_the_step(options: dict[str, str], chunk: int) -> None:
    rule, params = setup(**options)
    one = tokens(11)
    expected = oracle(leaves(params), one, options, chunk).detach()
    for cuts in ((), (3, 4, 9)):
        assert torch.allclose(run(Frozen(chunk=chunk), rule, params, one, cuts), expected, rtol=EXACT, atol=EXACT)
    if chunk == 1:
        assert torch.allclose(run(Sequential(), rule, params, one), expected, rtol=EXACT, atol=EXACT)
    else:
        assert not torch.allclose(run(Sequential(), rule, params, one), expected, atol=1e-6)


@every_option
@pytest.mark.parametrize("chunk", [1, 4])
def test_outer_gradients_are_those_of_the_loop(options: dict[str, str], chunk: int) -> None:
    rule, params = setup(**options)
    one, params = tokens(6).map(lambda x: x.requires_grad_()), leaves(params)
    wanted = [*one.values(), *params.values()]
    weight = torch.randn(2, 2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    strategy = Sequential() if chunk == 1 else Frozen(chunk=chunk)
    found = torch.autograd.grad((run(strategy, rule, params, one) * weight).sum(), wanted)
    expected = torch.autograd.grad((oracle(params, one, options, chunk) * weight).sum(), wanted)
    for f, e in zip(found, expected, strict=True):
        assert torch.allclose(f, e, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", MAPS)
def test_pullbacks_are_those_of_autograd(name: str) -> None:
    random = torch.Generator().manual_seed(2)
    z = torch.randn(4, 3, generator=random, dtype=torch.float64, requires_grad=True)
    d = torch.randn(4, 3, generator=random, dtype=torch.float64)
    y = MAPS[name].value(z)
    assert torch.allclose(y, mapped(name, z), rtol=1e-12, atol=1e-12)
    (expected,) = torch.autograd.grad(y, z, d)
    assert torch.allclose(MAPS[name].pullback(z, d), expected, rtol=1e-12, atol=1e-12)


def test_with_identity_maps_both_passes_are_error_first_delta_rules() -> None:
    """A delta rule whose value is the code, read as a matrix: once for keys, once for values."""
    rule, params = setup(phi="identity", f="identity", rate="plain")
    one = tokens(9)
    delta = {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "gd"}
    gates = {"retain": one.retain, "write": one.write}
    _, state = Sequential()(rule, params, one, rule.init_state(params, 2))
    for name, w, first in (
        ("keys_to_slots", one.k, params.keys_to_slots),
        ("slots_to_values", one.v, params.slots_to_values.mT),
    ):
        _, other = memory(w, w, one.code, rule=delta, gates=gates, params={"matrix": first}, chunk_size=4)
        found = state.memory[name]
        found = found if name == "keys_to_slots" else found.mT
        assert torch.allclose(found, other.memory.matrix, rtol=EXACT, atol=EXACT)
    slots = torch.einsum("bhmk,bhk->bhm", state.memory.keys_to_slots, one.q[:, :, -1])
    expected = torch.einsum("bhvm,bhm->bhv", state.memory.slots_to_values, slots)
    assert torch.allclose(rule.read(params, state, one.q[:, :, -1:]).squeeze(2), expected, rtol=EXACT, atol=EXACT)


def test_gap_of_frozen_gradients_is_second_order_in_the_rate_without_decay() -> None:
    rule, params = setup()
    one = tokens(8)

    def gap(rate: float) -> float:
        slow = one.replace(write=torch.full_like(one.write, rate), retain=torch.ones_like(one.retain))
        return float((run(Frozen(chunk=8), rule, params, slow) - run(Sequential(), rule, params, slow)).norm())

    assert 3.7 < gap(2e-4) / gap(1e-4) < 4.3


def test_a_changed_token_changes_no_earlier_read() -> None:
    rule, params = setup()
    one, two = tokens(12), tokens(12)
    two.code[:, :, 7:] += 1.0
    for strategy in (Sequential(), Frozen(chunk=4)):
        before, after = run(strategy, rule, params, one), run(strategy, rule, params, two)
        assert torch.equal(before[:, :, :7], after[:, :, :7])
        assert not torch.allclose(before[:, :, 7:], after[:, :, 7:])


def test_short_values_make_both_rates_equal_and_long_ones_do_not() -> None:
    one = tokens(5)
    short = one.replace(v=0.1 * one.v)
    (rule, params), (plain, _) = setup(), setup(rate="plain")
    assert torch.equal(run(Sequential(), rule, params, short), run(Sequential(), plain, params, short))
    assert not torch.allclose(run(Sequential(), rule, params, one), run(Sequential(), plain, params, one))


def test_refusals_name_their_reason() -> None:
    for options, word in (({}, "phi"), ({"phi": "identity"}, "transpose")):
        answer = Trellis(**options).offers(Affine)
        assert isinstance(answer, Refused)
        assert word in answer.reason
    with pytest.raises(CompositionError, match="singular"):
        Trellis(phi="ln-silu", start="zeros")
    with pytest.raises(CompositionError, match='did you mean "silu"'):
        Trellis(phi="sillu")


@pytest.mark.soak
@pytest.mark.parametrize("write", [0.0, 0.3])
@pytest.mark.parametrize("retain", [0.0, 0.9999])
def test_ten_thousand_tokens_at_the_gate_bounds_stay_finite(write: float, retain: float) -> None:
    widths = {"H": 1, "K": 16, "V": 16, "M": 16}
    rule = Trellis()
    params, random = initial_params(rule, widths), torch.Generator().manual_seed(5)
    for strategy in (Sequential(), Frozen(chunk=16), Frozen(chunk=64)):
        state = strategy.init_state(rule, params, 1)
        for _ in range(10):
            k, v, code = (torch.randn(1, 1, 1000, 16, generator=random) for _ in range(3))
            k = F.normalize(k, dim=-1)
            gates = {"retain": torch.full((1, 1, 1000), retain), "write": torch.full((1, 1, 1000), write)}
            y, state = strategy(rule, params, Tokens(q=k, k=k, v=v, code=code, **gates), state)
            assert float(y.abs().max()) < 20.0
