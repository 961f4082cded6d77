"""Lattice against a loop over single slots, its three losses against autograd, and what a sphere promises."""

import pytest
import torch
import torch.nn.functional as F
from hecate_lattice.rule import Lattice

from hecate_core import memory
from hecate_core.api import Affine, Refused
from hecate_core.blueprint import compose
from hecate_core.config import make_config
from hecate_core.errors import CompositionError, ConfigError
from hecate_core.memory_layer import MemoryLayer
from hecate_core.parameters import initial_params
from hecate_core.records import Params, State, Tokens
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential

WIDTHS = {"H": 2, "V": 5, "M": 3}
EXACT = 1e-12  # float64: a few hundred operations deep
VARIANTS = ["decode", "encode", "similarity"]
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def tokens(count: int, *, decay: bool = False, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    made = Tokens(
        q=F.normalize(draw(2, 2, count, 3), dim=-1),
        k=F.normalize(draw(2, 2, count, 3), dim=-1),
        v=draw(2, 2, count, 5),
        write=torch.sigmoid(draw(2, 2, count)),
    )
    return made.replace(retain=0.5 + 0.5 * torch.sigmoid(draw(2, 2, count))) if decay else made


def setup(variant: str = "decode", *, decay: bool = False) -> tuple[Lattice, Params]:
    rule = Lattice(variant=variant, decay=decay)
    return rule, initial_params(rule, WIDTHS, seed=3, dtype=torch.float64)


def loss(variant: str, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The inner loss with slots normalised inside it, as the paper states it; one head, slots `[V, M]`."""
    phi = slots / slots.norm(dim=0)
    if variant == "decode":
        return 0.5 * (phi @ k - v).square().sum()
    if variant == "encode":
        return 0.5 * (phi.T @ v - k).square().sum()
    return -(phi @ k) @ v


def oracle(variant: str, first: torch.Tensor, one: Tokens, chunk: int = 1) -> torch.Tensor:
    """Per row, head, token and slot: Eq. 1 to 5, codes and gates of a chunk at the slots it began with."""
    batch, heads, count, _ = one.k.shape
    reads = torch.zeros(batch, heads, count, 5, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            s = [first[h, :, i] / first[h, :, i].norm() for i in range(3)]
            anchor = s
            for t in range(count):
                if t % chunk == 0:
                    s = anchor = [x / x.norm() for x in s]
                k, v, th = one.k[b, h, t], one.v[b, h, t], one.write[b, h, t]
                a = one.retain[b, h, t] if "retain" in one else 1.0
                new = []
                for i in range(3):
                    w = v - sum(anchor[j] * k[j] for j in range(3)) if variant == "decode" else v
                    c = k[i] - anchor[i] @ v if variant == "encode" else k[i]
                    new.append((a - th * c * (anchor[i] @ w)) * s[i] + th * c * w)
                s = [n / n.norm() for n in new] if chunk == 1 else new
                reads[b, h, t] = sum(s[i] / s[i].norm() * one.q[b, h, t, i] for i in range(3))
    return reads


def run(strategy: object, rule: Lattice, params: Params, one: Tokens, cuts: tuple[int, ...] = ()) -> torch.Tensor:
    state, reads = strategy.init_state(rule, params, 2), []  # type: ignore[attr-defined]
    for a, b in zip((0, *cuts), (*cuts, one.k.shape[2]), strict=True):
        y, state = strategy(rule, params, one.map(lambda x, a=a, b=b: x[:, :, a:b]), state)  # type: ignore[operator,misc]
        reads.append(y)
    return torch.cat(reads, 2)


@every_variant
@pytest.mark.parametrize("decay", [False, True])
def test_step_is_the_loop_over_single_slots(variant: str, decay: bool) -> None:
    rule, params = setup(variant, decay=decay)
    one = tokens(11, decay=decay)
    expected = oracle(variant, params.slots, one)
    assert torch.allclose(run(Sequential(), rule, params, one), expected, rtol=EXACT, atol=EXACT)
    assert torch.allclose(run(Frozen(chunk=1), rule, params, one), expected, rtol=EXACT, atol=EXACT)


@every_variant
@pytest.mark.parametrize("decay", [False, True])
def test_frozen_is_the_loop_with_codes_and_gates_of_the_chunk_start(variant: str, decay: bool) -> None:
    rule, params = setup(variant, decay=decay)
    one = tokens(13, decay=decay)
    expected = oracle(variant, params.slots, one, chunk=4)
    for cuts in ((), (3, 4, 11)):
        assert torch.allclose(run(Frozen(chunk=4), rule, params, one, cuts), expected, rtol=EXACT, atol=EXACT)
    assert not torch.allclose(run(Sequential(), rule, params, one), expected, atol=1e-3)


@every_variant
def test_the_step_is_riemannian_descent_on_the_papers_loss(variant: str) -> None:
    """Without the retraction the change of the slots is -write times autograd's gradient."""
    rule, params = setup(variant)
    one = tokens(1).map(lambda x: x[:1])
    state = rule.init_state(params, 1)
    factors = rule._factors(params, state.memory, one)
    u, x = factors.updates["slots"]
    moved = factors.keep * state.memory.slots + u.mT @ x - state.memory.slots
    for h in range(2):
        slots = state.memory.slots[0, h].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(variant, slots, one.k[0, h, 0], one.v[0, h, 0]), slots)
        assert torch.allclose(moved[0, h], -one.write[0, h, 0] * gradient, rtol=EXACT, atol=EXACT)


@every_variant
@pytest.mark.parametrize("chunk", [1, 4])
def test_outer_gradients_are_those_of_the_loop(variant: str, chunk: int) -> None:
    rule, params = setup(variant)
    one, params = tokens(6).map(lambda x: x.requires_grad_()), params.map(lambda x: x.requires_grad_())
    leaves = [*one.values(), params.slots]
    weight = torch.randn(2, 2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    strategy = Sequential() if chunk == 1 else Frozen(chunk=chunk)
    found = torch.autograd.grad((run(strategy, rule, params, one) * weight).sum(), leaves)
    expected = torch.autograd.grad((oracle(variant, params.slots, one, chunk) * weight).sum(), leaves)
    for f, e in zip(found, expected, strict=True):
        assert torch.allclose(f, e, rtol=1e-10, atol=1e-11)


@every_variant
def test_slots_stay_unit_and_the_step_is_orthogonal_to_its_slot(variant: str) -> None:
    rule, params = setup(variant)
    state = rule.init_state(params, 2)
    one = tokens(20)
    for t in range(20):
        before = state.memory.slots
        _, state = rule.step(params, state, one.map(lambda x, t=t: x[:, :, t]))  # type: ignore[misc]
        after = state.memory.slots
        assert torch.allclose(after.norm(dim=-2), torch.ones_like(after[..., 0, :]), rtol=EXACT, atol=EXACT)
        along = (before * after).sum(-2, keepdim=True)  # cosine of the turn
        tangent = after / along - before  # what was added before the retraction
        assert float((tangent * before).sum(-2).abs().max()) < EXACT
        assert bool((along > 0).all()), "a turn of less than a right angle"


def test_a_slot_ignores_its_own_direction() -> None:
    rule, params = setup("similarity")
    state = rule.init_state(params, 2)
    one = tokens(1).map(lambda x: x[:, :, 0])
    slots = state.memory.slots
    only = torch.zeros_like(one.k)
    only[..., 0] = 1.0
    _, parallel = rule.step(params, state, one.replace(k=only, v=3.0 * slots[..., 0]))
    assert torch.allclose(parallel.memory.slots, slots, rtol=EXACT, atol=EXACT)
    _, other = rule.step(params, state, one.replace(k=only))
    assert not torch.allclose(other.memory.slots[..., 0], slots[..., 0], atol=1e-3)
    assert torch.allclose(other.memory.slots[..., 1:], slots[..., 1:], rtol=EXACT, atol=EXACT)


@every_variant
def test_a_write_of_zero_is_a_fixed_point(variant: str) -> None:
    rule, params = setup(variant)
    one = tokens(9)
    still = one.replace(write=torch.zeros_like(one.write))
    for strategy in (Sequential(), Frozen(chunk=4)):
        _, state = strategy(rule, params, still, strategy.init_state(rule, params, 2))
        assert torch.allclose(state.memory.slots, rule.init_state(params, 2).memory.slots, rtol=EXACT, atol=EXACT)


def test_decode_reconstructs_what_lies_on_the_sphere() -> None:
    """One slot, code 1: repeated writes turn the slot into a unit value."""
    rule = Lattice()
    v = F.normalize(torch.randn(1, 1, 1, 5, dtype=torch.float64), dim=-1).expand(1, 1, 200, 5)
    one = torch.ones(1, 1, 200, 1, dtype=torch.float64)
    y, _ = memory(one, one, v, rule=rule, strategy="sequential", gates={"write": torch.full((1, 1, 200), 0.5).double()})
    assert torch.allclose(y[:, :, -1], v[:, :, -1], atol=1e-6)


@every_variant
def test_gap_of_frozen_gradients_is_at_least_second_order_in_the_rate(variant: str) -> None:
    rule, params = setup(variant)
    one = tokens(8)

    def gap(rate: float) -> float:
        slow = one.replace(write=torch.full_like(one.write, rate))
        return float((run(Frozen(chunk=8), rule, params, slow) - run(Sequential(), rule, params, slow)).norm())

    ratio = gap(2e-3) / gap(1e-3)
    assert 3.7 < ratio < (9.0 if variant == "similarity" else 4.3)


def test_a_changed_token_changes_no_earlier_read() -> None:
    rule, params = setup()
    one, two = tokens(12), tokens(12)
    two.v[:, :, 7:] += 1.0
    two.k[:, :, 7:] = -two.k[:, :, 7:]
    for strategy in (Sequential(), Frozen(chunk=4)):
        before, after = run(strategy, rule, params, one), run(strategy, rule, params, two)
        assert torch.equal(before[:, :, :7], after[:, :, :7])
        assert not torch.allclose(before[:, :, 7:], after[:, :, 7:])


def test_masked_tokens_change_nothing_and_a_chunk_may_end_anywhere() -> None:
    rule, params = setup()
    one = tokens(9)
    due = torch.rand(2, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    y, _ = Sequential()(rule, params, one, rule.init_state(params, 2), due)
    alone, _ = Sequential()(rule, params, one.map(lambda x: x[:1, :, due[0]]), rule.init_state(params, 1))
    assert torch.allclose(y[:1, :, due[0]], alone, rtol=EXACT, atol=EXACT)
    frozen = Frozen(chunk=6)
    y, state = frozen(rule, params, one, frozen.init_state(rule, params, 2))
    assert torch.allclose(rule.read(params, state, one.q[:, :, -1:]), y[:, :, -1:], rtol=EXACT, atol=EXACT)


def test_refusals_name_their_reason() -> None:
    answer = Lattice().offers(Affine)
    assert isinstance(answer, Refused)
    assert "sphere" in answer.reason
    with pytest.raises(CompositionError, match='did you mean "decode"'):
        Lattice(variant="decoder")


def test_a_layer_takes_the_number_of_slots() -> None:
    layer = MemoryLayer(8, 2, rule="lattice", strategy="frozen", chunk=4, widths={"M": 3})
    state = layer.init_state(2)
    assert isinstance(state, State)
    assert state.flat()["level0.rule.memory.slots"].shape == (2, 2, 4, 3)
    y, _ = layer(torch.randn(2, 7, 8), state)
    assert y.shape == (2, 7, 8)


def test_a_config_gives_the_number_of_slots() -> None:
    table = {"rule": "lattice", "strategy": "frozen", "chunk": 4, "widths": {"M": 3}}
    model = compose(make_config({"model": {"width": 8, "heads": 2, "depth": 1, "vocab": 16, "memory": table}}))
    shapes = {name: one.shape for name, one in model.init_state(2).flat().items() if name.endswith("slots")}
    assert {tuple(shape) for shape in shapes.values()} == {(2, 2, 4, 3)}  # memory and anchor
    with pytest.raises(ConfigError, match="widths"):
        make_config({"model": {"memory": {"widths": {"M": "three"}}}})


@every_variant
def test_the_vjp_in_the_spec_is_that_of_the_step(variant: str) -> None:
    rule, params = setup(variant)
    one = tokens(1).map(lambda x: x[:, :, 0])
    slots = rule.init_state(params, 2).memory.slots.clone().requires_grad_()
    leaves = {name: x.requires_grad_() for name, x in one.items()}
    y, after = rule.step(params, State(memory=State(slots=slots)), Tokens.of(leaves))
    dy, later = torch.randn_like(y), torch.randn_like(slots)
    found = torch.autograd.grad((y * dy).sum() + (after.memory.slots * later).sum(), [slots, *leaves.values()])
    expected = written_vjp(variant, slots.detach(), one.map(torch.Tensor.detach), dy, later)
    for f, e in zip(found, expected, strict=True):
        assert torch.allclose(f, e, rtol=1e-10, atol=1e-11)


def written_vjp(
    variant: str, s: torch.Tensor, one: Tokens, dy: torch.Tensor, later: torch.Tensor
) -> list[torch.Tensor]:
    """Section Gradient (VJP), line by line: adjoints of slots, q, k, v, write."""
    k, v, write = one.k, one.v, one.write[..., None]
    predicted, answered = (s @ k[..., None])[..., 0], (s.mT @ v[..., None])[..., 0]
    w = v - predicted if variant == "decode" else v
    c = k - answered if variant == "encode" else k
    r, g = (s.mT @ w[..., None])[..., 0], write * c
    n = s + g[..., None, :] * (w[..., None] - s * r[..., None, :])
    length = n.norm(dim=-2, keepdim=True)
    new = n / length
    d = later + dy[..., None] * one.q[..., None, :]
    dn = (d - new * (new * d).sum(-2, keepdim=True)) / length
    along = (s * dn).sum(-2)
    dg = (w[..., None] * dn).sum(-2) - r * along
    dw = ((dn - s * along[..., None, :]) * g[..., None, :]).sum(-1)
    dc, dwrite = write * dg, (c * dg).sum(-1)
    ds = (1 - g * r)[..., None, :] * dn - (g * along)[..., None, :] * w[..., None]
    dk, dv = dc, dw
    if variant == "decode":
        dk = dc - (s.mT @ dw[..., None])[..., 0]
        ds = ds - dw[..., None] * k[..., None, :]
    elif variant == "encode":
        dv = dw - (s @ dc[..., None])[..., 0]
        ds = ds - v[..., None] * dc[..., None, :]
    return [ds, (new.mT @ dy[..., None])[..., 0], dk, dv, dwrite]


@pytest.mark.soak
@every_variant
@pytest.mark.parametrize("write", [0.0, 1.0])
def test_ten_thousand_tokens_stay_on_the_sphere(variant: str, write: float) -> None:
    rule, params = setup(variant)
    random = torch.Generator().manual_seed(5)
    state = Sequential().init_state(rule, params, 1)
    for _ in range(10):
        k = F.normalize(torch.randn(1, 2, 1000, 3, generator=random, dtype=torch.float64), dim=-1)
        v = torch.randn(1, 2, 1000, 5, generator=random, dtype=torch.float64)
        one = Tokens(q=k, k=k, v=v, write=torch.full((1, 2, 1000), write, dtype=torch.float64))
        y, state = Sequential()(rule, params, one, state)
        assert float(y.norm(dim=-1).max()) <= 3**0.5 + EXACT
