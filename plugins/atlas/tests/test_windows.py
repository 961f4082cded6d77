"""Omega and Atlas against a loop with autograd's gradients of the windowed loss, in every form they offer."""

import pytest
import torch
import torch.nn.functional as F
from hecate_atlas.atlas import atlas
from hecate_atlas.features import poly2
from hecate_atlas.newton_schulz import COEFFICIENTS, newton_schulz
from hecate_atlas.omega import omega
from hecate_atlas.rule import WindowRule

from hecate_core import memory
from hecate_core.api import Affine, Refused, registry
from hecate_core.errors import CompositionError
from hecate_core.parameters import initial_params
from hecate_core.records import Params, Tokens
from hecate_core.strategies.chunkwise import Chunkwise
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential

WIDTHS = {"H": 2, "K": 3, "V": 4}
EXACT = 1e-11  # float64: a few hundred operations deep
CUTS = (3, 4, 9)


def values(rule: WindowRule) -> int:
    """The width of values: that of keys under a residual."""
    return WIDTHS["K" if getattr(rule._structure, "_residual", False) else "V"]


def tokens(rule: WindowRule, count: int, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    size = rule._size
    made = Tokens(
        q=F.normalize(draw(2, 2, count, 3), dim=-1),
        k=F.normalize(draw(2, 2, count, 3), dim=-1),
        v=draw(2, 2, count, values(rule)),
        retain=torch.sigmoid(draw(2, 2, count) + 3),
        write=torch.sigmoid(draw(2, 2, count)) / size,
        window=torch.sigmoid(draw(2, 2, count, size)),
    )
    return made.replace(momentum=torch.sigmoid(draw(2, 2, count))) if rule._has_momentum else made


def params_of(rule: WindowRule) -> Params:
    made = initial_params(rule, {**WIDTHS, "V": values(rule)}, seed=3, dtype=torch.float64)
    random = torch.Generator().manual_seed(4)
    return Params.of(
        {
            name: one if name.startswith("window") else one + 0.2 * torch.randn(one.shape, generator=random).double()
            for name, one in made.items()
        }
    )


def mapped(params: Params, x: torch.Tensor, features: str) -> torch.Tensor:
    """phi entry by entry: 1, x_i, x_i^2, sqrt2 x_i x_j, with coefficients that add up to 1."""
    if features == "identity":
        return x
    c = torch.stack([params.constant**2, params.linear**2, params.quadratic**2 / 2], -1)
    c = (c / c.sum(-1, keepdim=True)).sqrt()
    d = x.shape[-1]
    pairs = [x[..., i] * x[..., j] * (1.0 if i == j else 2**0.5) for i in range(d) for j in range(i, d)]
    entries = [torch.ones_like(x[..., 0]) * c[:, 0], *(x[..., i] * c[:, 1] for i in range(d))]
    return torch.stack([*entries, *(pair * c[:, 2] for pair in pairs)], -1)


def net(weights: list[torch.Tensor], key: torch.Tensor, residual: bool) -> torch.Tensor:
    x = key
    for i, weight in enumerate(weights):
        x = torch.einsum("bhij,bhj->bhi", weight, x if i == 0 else F.gelu(x))
    return key + x if residual else x


def literal_ns(s: torch.Tensor, steps: int, coefficients: str) -> torch.Tensor:
    a, b, c = COEFFICIENTS[coefficients]
    x = s / (s.flatten(-2).norm(dim=-1)[..., None, None] + 1e-7)
    for _ in range(steps):
        xx = x @ x.mT
        x = a * x + b * xx @ x + c * xx @ xx @ x
    return x


def oracle(rule: WindowRule, params: Params, one: Tokens, options: dict[str, object], chunk: int = 1) -> torch.Tensor:
    """Eq. 1 to 4 per token, ascent turned to descent, gradients at the memory that a chunk began with."""
    features, size = str(options.get("features", "poly2")), rule._size
    names = list(rule._structure.layers)
    residual = len(names) > 1 and features == "identity" and options.get("residual") is not False
    w = [params[name].expand(2, -1, -1, -1).clone().requires_grad_() for name in names]
    s = [torch.zeros_like(x) for x in w]
    k, q = mapped(params, one.k.movedim(1, 2), features), mapped(params, one.q.movedim(1, 2), features)
    reads, anchor = [], w
    for t in range(one.k.shape[2]):
        anchor = w if t % chunk == 0 else anchor
        loss = torch.zeros((), dtype=torch.float64)
        for j in range(min(size, t + 1)):
            error = net(anchor, k[:, t - j], residual) - one.v[:, :, t - j]
            loss = loss + 0.5 * (one.window[:, :, t, j] * error.square().sum(-1)).sum()
        gradients = torch.autograd.grad(loss, anchor, create_graph=True)
        a, th = one.retain[:, :, t, None, None], one.write[:, :, t, None, None]
        h = one.momentum[:, :, t, None, None] if "momentum" in one else 0.0
        inside = options.get("rate") == "inside"
        s = [h * x + (th * g if inside else g) for x, g in zip(s, gradients, strict=True)]
        steps = s
        if rule.name == "atlas":
            steps = [
                literal_ns(x, int(str(options.get("steps", 5))), str(options.get("coefficients", "muon"))) for x in s
            ]
        w = [a * x - (y if inside else th * y) for x, y in zip(w, steps, strict=True)]
        reads.append(net(w, q[:, t], residual))
    return torch.stack(reads, 2)


def run(strategy: object, rule: object, params: Params, one: Tokens, cuts: tuple[int, ...] = ()) -> torch.Tensor:
    state, reads = strategy.init_state(rule, params, 2), []  # type: ignore[attr-defined]
    for a, b in zip((0, *cuts), (*cuts, one.k.shape[2]), strict=True):
        y, state = strategy(rule, params, one.map(lambda x, a=a, b=b: x[:, :, a:b]), state)  # type: ignore[operator,misc]
        reads.append(y)
    return torch.cat(reads, 2)


OMEGA = [
    {},
    {"momentum": True},
    {"window": 1, "features": "identity"},
    {"window": 1, "momentum": True},
    {"window": 3, "features": "identity", "depth": 2},
    {"window": 2, "momentum": True, "depth": 2, "expansion": 2.0},
    {"window": 2, "features": "identity", "depth": 2, "residual": False},
]
ATLAS = [
    {"window": 3},
    {"window": 1, "features": "identity", "coefficients": "polar", "steps": 3},
    {"window": 2, "rate": "inside"},
    {"window": 2, "features": "identity", "depth": 2},
]
CASES = [(omega, options) for options in OMEGA] + [(atlas, options) for options in ATLAS]
every_case = pytest.mark.parametrize(("make", "options"), CASES, ids=lambda x: getattr(x, "__name__", str(x)))


@every_case
@pytest.mark.parametrize("chunk", [1, 4])
def test_frozen_is_the_loop_and_with_chunk_1_the_step(make, options, chunk: int) -> None:  # type: ignore[no-untyped-def]
    rule = make(**options)
    params, one = params_of(rule), tokens(rule, 11)
    expected = oracle(rule, params, one, options, chunk).detach()
    for cuts in ((), CUTS):
        assert torch.allclose(run(Frozen(chunk=chunk), rule, params, one, cuts), expected, rtol=EXACT, atol=EXACT)
    if chunk == 1:
        assert torch.allclose(run(Sequential(), rule, params, one), expected, rtol=EXACT, atol=EXACT)
    else:
        assert not torch.allclose(run(Sequential(), rule, params, one), expected, atol=1e-6)


@pytest.mark.parametrize("options", OMEGA[:4], ids=str)
@pytest.mark.parametrize("chunk", [1, 3, 8, 64])
def test_chunks_over_changes_are_exact_however_cut(options: dict[str, object], chunk: int) -> None:
    rule = omega(**options)  # type: ignore[arg-type]
    params, one = params_of(rule), tokens(rule, 11)
    expected = oracle(rule, params, one, options).detach()
    for cuts in ((), CUTS):
        assert torch.allclose(run(Chunkwise(chunk=chunk), rule, params, one, cuts), expected, rtol=EXACT, atol=EXACT)


@every_case
@pytest.mark.parametrize("strategy", [Sequential(), Chunkwise(chunk=3), Frozen(chunk=3)], ids=lambda x: x.name)
def test_outer_gradients_are_those_of_the_loop(make, options, strategy) -> None:  # type: ignore[no-untyped-def]
    rule = make(**options)
    if strategy.needs is Affine and isinstance(rule.offers(Affine), Refused):
        return
    one = tokens(rule, 6).map(lambda x: x.requires_grad_())
    params = params_of(rule).map(lambda x: x.requires_grad_())
    leaves = [*one.values(), *(x for name, x in params.items() if not name.startswith("window"))]
    weight = torch.randn(2, 2, 6, values(rule), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((run(strategy, rule, params, one) * weight).sum(), leaves)
    chunk = 3 if strategy.name == "frozen" else 1
    expected = torch.autograd.grad((oracle(rule, params, one, options, chunk) * weight).sum(), leaves)
    for f, e in zip(found, expected, strict=True):
        assert torch.allclose(f, e, rtol=1e-8, atol=1e-9)


def test_window_1_is_the_delta_rule_and_with_momentum_titans() -> None:
    for momentum, name in ((False, "gd"), (True, "momentum")):
        rule = omega(window=1, features="identity", momentum=momentum)
        one = tokens(rule, 9)
        one = one.replace(window=torch.ones_like(one.window))
        if momentum:  # Titans scales what enters S, Omega what leaves it: the same for a constant rate
            one = one.replace(write=torch.full_like(one.write, 0.3))
        gates = {gate: one[gate] for gate in ("retain", "write", "momentum") if gate in one}
        knobs = {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": name}
        expected, _ = memory(one.q, one.k, one.v, rule=knobs, gates=gates, chunk_size=4)
        start = initial_params(rule, WIDTHS, dtype=torch.float64)
        assert torch.allclose(run(Chunkwise(chunk=4), rule, start, one), expected, rtol=EXACT, atol=EXACT)


def test_a_window_whose_past_weighs_nothing_is_window_1() -> None:
    one = tokens(omega(), 9)
    only = torch.zeros_like(one.window)
    only[..., 0] = one.window[..., 0]
    params = params_of(omega())
    short = one.replace(window=one.window[..., :1])
    expected = run(Sequential(), omega(window=1), params.without("window_k", "window_v"), short)
    assert torch.allclose(run(Chunkwise(), omega(), params, one.replace(window=only)), expected, rtol=EXACT, atol=EXACT)


def test_the_feature_kernel_is_a_polynomial_of_the_dot_product() -> None:
    params = params_of(omega())
    x, y = torch.randn(2, 2, 5, 3, dtype=torch.float64), torch.randn(2, 2, 5, 3, dtype=torch.float64)
    c0, c1, c2 = (one[:, None] for one in (params.constant**2, params.linear**2, params.quadratic**2 / 2))
    dot = (x * y).sum(-1)
    expected = (c0 + c1 * dot + c2 * dot**2) / (c0 + c1 + c2)
    assert torch.allclose((poly2(params, x) * poly2(params, y)).sum(-1), expected, rtol=EXACT, atol=EXACT)
    key = F.normalize(x, dim=-1)
    assert torch.allclose(poly2(params, key).norm(dim=-1), torch.ones_like(dot), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 5, 3), (1, 4, 4)])
@pytest.mark.parametrize("coefficients", COEFFICIENTS)
def test_newton_schulz_and_its_written_backward(shape: tuple[int, ...], coefficients: str) -> None:
    random = torch.Generator().manual_seed(2)
    s = torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True)
    d = torch.randn(shape, generator=random, dtype=torch.float64)
    found, expected = newton_schulz(s, 5, coefficients), literal_ns(s, 5, coefficients)
    assert torch.allclose(found, expected, rtol=EXACT, atol=EXACT)
    (one,), (two,) = torch.autograd.grad(found, s, d), torch.autograd.grad(expected, s, d)
    assert torch.allclose(one, two, rtol=1e-10, atol=1e-11)


def test_newton_schulz_finds_the_polar_factor_and_keeps_zero() -> None:
    s = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(s, full_matrices=False)
    assert torch.allclose(newton_schulz(s, 40, "polar"), left @ right, atol=1e-6)
    assert torch.allclose(newton_schulz(7.0 * s), newton_schulz(s), atol=1e-5)
    assert torch.allclose(newton_schulz(-s), -newton_schulz(s))
    values = torch.linalg.svdvals(newton_schulz(s))
    assert 0.6 < float(values.min()) < float(values.max()) < 1.3
    zero = torch.zeros(2, 3, requires_grad=True)
    newton_schulz(zero).sum().backward()
    assert torch.equal(newton_schulz(zero), zero)
    assert bool(torch.isfinite(zero.grad).all())  # type: ignore[arg-type]


def test_newton_schulz_as_a_knob_is_atlas_with_window_1() -> None:
    rule = atlas(window=1, features="identity")
    one = tokens(rule, 9)
    one = one.replace(window=torch.ones_like(one.window))
    knobs = {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "newton-schulz"}
    gates = {gate: one[gate] for gate in ("retain", "write", "momentum")}
    start = initial_params(rule, WIDTHS, dtype=torch.float64)
    for strategy in ("sequential", "frozen"):
        expected, _ = memory(one.q, one.k, one.v, rule=knobs, gates=gates, strategy=strategy, chunk_size=4)
        spread = Sequential() if strategy == "sequential" else Frozen(chunk=4)
        assert torch.allclose(run(spread, rule, start, one), expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("make", [omega, atlas])
def test_a_resting_token_is_as_if_it_had_not_been_there(make) -> None:  # type: ignore[no-untyped-def]
    rule = make(window=3)
    params, one = params_of(rule), tokens(rule, 12)
    due = torch.rand(2, 12, generator=torch.Generator().manual_seed(1)) < 0.6
    strategies = [Sequential(), Frozen(chunk=1)] + ([Chunkwise(chunk=4)] if make is omega else [])
    for strategy in strategies:
        state, reads = strategy.init_state(rule, params, 2), []
        for a, b in ((0, 5), (5, 12)):
            y, state = strategy(rule, params, one.map(lambda x, a=a, b=b: x[:, :, a:b]), state, due[:, a:b])  # type: ignore[misc]
            reads.append(y)
        for row in range(2):
            single = one.map(lambda x, row=row: x[row : row + 1, :, due[row]])  # type: ignore[misc]
            alone, _ = Sequential()(rule, params, single, rule.init_state(params, 1))
            assert torch.allclose(torch.cat(reads, 2)[row, :, due[row]], alone[0], rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("make", [omega, atlas])
def test_a_changed_token_changes_no_earlier_read(make) -> None:  # type: ignore[no-untyped-def]
    rule = make()
    params, one, two = params_of(rule), tokens(rule, 12), tokens(rule, 12)
    two.v[:, :, 7:] += 1.0
    for strategy in (Sequential(), Frozen(chunk=4)):
        before, after = run(strategy, rule, params, one), run(strategy, rule, params, two)
        assert torch.equal(before[:, :, :7], after[:, :, :7])
        assert not torch.allclose(before[:, :, 7:], after[:, :, 7:])


def test_through_the_front_door_with_gates_of_the_window() -> None:
    rule = registry().create("rule", "omega")
    one = tokens(rule, 5)
    gates = {name: one[name] for name in rule.gates}
    y, state = memory(one.q, one.k, one.v, rule="omega", gates=gates)
    assert state.flat()["memory.matrix"].shape == (2, 2, 4, 10)
    assert state.flat()["window.k"].shape == (2, 2, 3, 3)
    z, _ = memory(one.q, one.k, one.v, rule="omega", gates=gates, strategy="sequential")
    assert torch.allclose(y, z, rtol=EXACT, atol=EXACT)


def test_refusals_name_their_reason() -> None:
    for rule, word in ((atlas(), "maps the step"), (omega(depth=2), "not linear")):
        answer = rule.offers(Affine)
        assert isinstance(answer, Refused)
        assert word in answer.reason
    with pytest.raises(CompositionError, match='did you mean "poly2"'):
        omega(features="poly")
    for wrong in ({"depth": 2}, {"features": "identity"}):
        with pytest.raises(CompositionError, match=r"residual = true with depth = .* expected an MLP"):
            atlas(residual=True, **wrong)  # type: ignore[arg-type]
    with pytest.raises(CompositionError, match="window = 0"):
        atlas(window=0)


@pytest.mark.soak
@pytest.mark.parametrize("retain", [0.0, 0.9999])
@pytest.mark.parametrize(
    ("make", "momentum"), [(omega, None), (omega, "low"), (omega, "high"), (atlas, "low"), (atlas, "high")]
)
def test_ten_thousand_tokens_at_the_gate_bounds_stay_finite(make, momentum, retain: float) -> None:  # type: ignore[no-untyped-def]
    rule = make(momentum=momentum is not None) if make is omega else make()
    widths, random = {"H": 1, "K": 4, "V": 4}, torch.Generator().manual_seed(5)
    params = initial_params(rule, widths)
    for strategy in [Sequential()] if make is omega else [Sequential(), Frozen(chunk=8)]:
        state = strategy.init_state(rule, params, 1)
        for _ in range(10):
            k = F.normalize(torch.randn(1, 1, 1000, 4, generator=random), dim=-1)
            v = torch.randn(1, 1, 1000, 4, generator=random)
            high = {name: torch.full((1, 1, 1000), gate.high) for name, gate in rule.gates.items()}
            high["retain"], high["window"] = torch.full((1, 1, 1000), retain), torch.ones(1, 1, 1000, 4)
            if momentum is not None:
                high["momentum"] = torch.full((1, 1, 1000), getattr(rule.gates["momentum"], momentum))
            y, state = strategy(rule, params, Tokens(q=k, k=k, v=v, **high), state)
            assert bool(torch.isfinite(y).all())
