"""Self-modifying Titans against a loop whose inner gradients come from autograd, its anchored form, and its limits."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hecate_hope.rule import SelfModifyingTitans

from hecate_core import memory
from hecate_core.api import Affine, Refused, times
from hecate_core.composing import leveled_memory, rule_of, strategy_of
from hecate_core.errors import CompositionError, HecateError, InputError
from hecate_core.parameters import initial_params
from hecate_core.records import Params, State, Tokens
from hecate_core.registry import registry
from hecate_core.shapes import Tensor
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential
from hecate_core.widths import full_widths

K, H, B = 4, 2, 2
WIDTHS = {"H": H, "K": K, "V": K}
EXACT = 1e-11  # float64: a few hundred operations deep
VJP = 1e-8  # relative, in float64
OPTIONS: list[dict[str, Any]] = [
    {},
    {"erase": "first", "adapt_q": True, "values": "free"},
    {"erase": "none", "momentum": True, "projection_chunks": 2},
    {"structure": "matrix"},
    {"structure": "matrix", "bias": "dot", "adapt_q": True, "momentum": True},
    {"structure": "matrix", "adapt_q": True, "query": "front"},
    {"adapt_q": True, "query": "front", "projection_chunks": 2},
    {
        "structure": {"name": "mlp", "norm": True, "residual": True, "depth": 3, "expansion": 2},
        "bias": {"name": "huber", "form": "norm"},
    },
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def tokens(rule: SelfModifyingTitans, count: int, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    made = {"q": F.normalize(draw(B, H, count, K), dim=-1), "x": draw(B, H, count, K)}
    if "x" not in rule.inputs:
        made = {"q": made["x"]}
    gates = {name: gate.used(draw(B, H, count)) for name, gate in rule.gates.items()}
    return Tokens.of({**made, **gates})


def setup(options: dict[str, Any]) -> tuple[SelfModifyingTitans, Params]:
    rule = SelfModifyingTitans(**options)
    params = initial_params(rule, full_widths(rule, WIDTHS), seed=3, dtype=torch.float64)
    g = torch.Generator().manual_seed(4)
    return rule, params.map(lambda one: one + 0.1 * torch.randn(one.shape, generator=g, dtype=one.dtype))


Weights = dict[str, Tensor]


class ByHand:
    """Per row and head, plain vectors; every inner gradient by autograd of the loss that the options name."""

    def __init__(self, options: dict[str, Any], params: Params, head: int) -> None:
        self.options = {"structure": None, "bias": "l2", "erase": "layers", **options}
        self.params = {name: one[head] for name, one in params.items()}
        self.square = self.options["structure"] != "matrix"

    def answer(self, part: str, weights: Weights, z: Tensor) -> Tensor:
        mine = {name.removeprefix(f"{part}_"): one for name, one in weights.items() if name.startswith(f"{part}_")}
        if "matrix" in mine:
            return mine["matrix"] @ z
        hidden = z
        for i in range(1, len(mine) + 1):
            hidden = mine[f"w{i}"] @ hidden
            if i < len(mine):
                hidden = F.gelu(hidden)
        if f"{part}_norm_scale" in self.params:
            scale, shift = self.params[f"{part}_norm_scale"], self.params[f"{part}_norm_shift"]
            hidden = F.layer_norm(hidden, hidden.shape, scale, shift)
        return z + hidden

    def loss(self, prediction: Tensor, target: Tensor, threshold: Tensor | None) -> Tensor:
        if self.options["bias"] == "dot":
            return -(prediction * target).sum()
        error = prediction - target
        if isinstance(self.options["bias"], dict):
            assert threshold is not None
            norm = error.norm()
            return torch.where(norm <= threshold, norm**2 / 2, threshold * (norm - threshold / 2))
        return (error**2).sum() / 2

    def run(self, x: Tensor, q: Tensor, gates: Weights, chunk: int, rates: Any) -> Tensor:
        names = [name for name in self.params if name.endswith("matrix") or name[-2:] in ("w1", "w2", "w3")]
        parts = list(dict.fromkeys(name.split("_")[0] for name in names))
        weights = {name: self.params[name] for name in names}
        momentum = {name: torch.zeros_like(one) for name, one in weights.items()}
        anchor, reads = weights, []
        for t in range(x.shape[0]):
            if t % chunk == 0:
                due = (t // chunk) % self.options.get("projection_chunks", 1) == 0
                anchor = {
                    name: one if due or name.startswith("main_") else anchor[name] for name, one in weights.items()
                }
            key, v = self.answer("key", anchor, x[t]), self.answer("value", anchor, x[t])
            k = key / (key.square().sum() + 1e-12).sqrt()
            v = v if self.options.get("values") == "free" else v / v.norm().clamp(min=1.0)
            rate = {}
            for name in ("write", "retain"):
                raw = self.answer(name, anchor, x[t]) @ self.params[f"{name}_row"] + self.params[f"{name}_shift"]
                gate = rates[name]
                rate[name] = gate.low + (gate.high - gate.low) * torch.sigmoid(raw + gate.raw_init())
            now = {name: gate[t] for name, gate in gates.items()}
            met = weights
            weights, momentum = self.moved(parts, anchor, weights, momentum, (k, v), rate, now)
            query = q[t]
            if "query" in parts:
                late = self.options.get("query") == "front"
                query = self.answer("query", weights if late else met, query if late else x[t])
                query = query / (query.square().sum() + 1e-12).sqrt()
            reads.append(self.answer("main", weights, query))
        return torch.stack(reads)

    def moved(
        self,
        parts: list[str],
        anchor: Weights,
        weights: Weights,
        momentum: Weights,
        pair: tuple[Tensor, Tensor],
        rate: Weights,
        gates: Weights,
    ) -> tuple[Weights, Weights]:
        new, moves, (k, v) = dict[str, Tensor](), dict[str, Tensor](), pair
        for part in parts:
            mine = {name: one for name, one in anchor.items() if name.startswith(f"{part}_")}
            target = self.answer(part, anchor, v)
            leaves = {name: one.view_as(one) for name, one in mine.items()}  # the target is not seen through these
            loss = self.loss(self.answer(part, {**anchor, **leaves}, k), target, gates.get("threshold"))
            grads = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
            z = k
            for i, (name, grad) in enumerate(zip(leaves, grads, strict=True)):
                step = -rate["write"] * grad
                if self.options["erase"] == "layers" or (self.options["erase"] == "first" and i == 0):
                    erase = rate["write"] / (1 - rate["write"] + rate["write"] * z.square().sum())
                    step = step - erase * torch.outer(weights[name] @ z, z)  # of what runs, not of the anchor
                z = F.gelu(anchor[name] @ z)
                if "momentum" in gates:
                    step = moves[name] = gates["momentum"] * momentum[name] + step
                new[name] = rate["retain"] * weights[name] + step
        return new, moves


def by_hand(rule: SelfModifyingTitans, options: dict[str, Any], params: Params, given: Tokens, chunk: int) -> Tensor:
    """Reads `[B, H, T, V]` of the loop."""
    gates = [name for name in given if name not in ("q", "x")]
    rows = [
        torch.stack(
            [
                ByHand(options, params, h).run(
                    given.get("x", given.q)[b, h],
                    given.q[b, h],
                    {name: given[name][b, h] for name in gates},
                    chunk,
                    rule.rates,
                )
                for h in range(H)
            ]
        )
        for b in range(B)
    ]
    return torch.stack(rows)


def learnable(params: Params) -> Params:
    return params.map(lambda one: one.clone().requires_grad_())


@every_option
@pytest.mark.parametrize("chunk", [1, 3])
def test_reads_and_outer_gradients_are_those_of_the_loop(options: dict[str, Any], chunk: int) -> None:
    """Chunk 1 is `step`; chunk 3 takes every key, value, rate and inner gradient at the chunk's first memories."""
    rule, params = setup(options)
    given = tokens(rule, 7)
    weighting = torch.randn(B, H, 7, K, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found, grads = [], []
    for spread in (Frozen(chunk=chunk), None):
        outer, leaves = learnable(params), given.map(lambda one: one.clone().requires_grad_())
        if spread is None:
            y = by_hand(rule, options, outer, leaves, chunk)
        else:
            y, _ = spread(rule, outer, leaves, spread.init_state(rule, outer, B))
        found.append(y.detach())
        wanted = [*outer.flat().values(), *leaves.flat().values()]
        grads.append(torch.autograd.grad((y * weighting).sum(), wanted))
    torch.testing.assert_close(found[0], found[1], atol=EXACT, rtol=EXACT)
    for one, two in zip(*grads, strict=True):
        assert float((one - two).abs().max()) <= VJP * max(1.0, float(two.abs().max()))
    if chunk == 1 and options.get("projection_chunks", 1) == 1:
        y, _ = Sequential()(rule, params, given, rule.init_state(params, B))
        torch.testing.assert_close(y, found[1], atol=EXACT, rtol=EXACT)


def test_anchors_of_two_ages_lie_on_an_absolute_grid() -> None:
    rule, params = setup({"projection_chunks": 3})
    given, spread, outputs = tokens(rule, 19), Frozen(chunk=2), []
    state = spread.init_state(rule, params, B)
    expected, end = spread(rule, params, given, state)
    for begin, stop in ((0, 3), (3, 4), (4, 13), (13, 19)):
        piece = given.map(lambda one, a=begin, b=stop: one[:, :, a:b])  # type: ignore[misc]
        y, state = spread(rule, params, piece, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 2), expected, atol=EXACT, rtol=EXACT)
    for path, one in end.flat().items():
        torch.testing.assert_close(state.flat()[path], one, atol=EXACT, rtol=EXACT)
    once, _ = setup({})
    assert not torch.allclose(spread(once, params, given, spread.init_state(once, params, B))[0], expected)


def recorded(rule: SelfModifyingTitans, params: Params, given: Tokens) -> tuple[Tensor, dict[str, Tensor]]:
    """Reads token by token, and what the rule made of every token: key, target of the main memory, step and decay."""
    state, reads, made = rule.init_state(params, B), [], dict[str, list[Tensor]]()
    for t in range(given.q.shape[2]):
        token = given.map(lambda one, t=t: one[:, :, t])  # type: ignore[misc]
        memory_of = state.memory

        def answer(part: str, z: Tensor, memory_of: State = memory_of) -> Tensor:
            return times(memory_of[f"{part}_matrix"], z)

        v = answer("value", token.x)
        v = v / v.norm(dim=-1, keepdim=True).clamp(min=1.0)
        rates = {
            name: gate.used(
                (answer(name, token.x) * params[f"{name}_row"]).sum(-1) + params[f"{name}_shift"] + gate.raw_init()
            )
            for name, gate in rule.rates.items()
        }
        now = {"k": F.normalize(answer("key", token.x), dim=-1), "v": answer("main", v), **rates}
        for name, one in now.items():
            made.setdefault(name, []).append(one)
        y, state = rule.step(params, state, token)
        reads.append(y)
    return torch.stack(reads, 2), {name: torch.stack(parts, 2) for name, parts in made.items()}


@pytest.mark.parametrize(
    ("options", "twin"),
    [
        (
            {"bias": "l2"},
            {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "dgd"},
        ),
        (
            {"bias": "dot"},
            {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "gd"},
        ),
        (
            {"bias": "l2", "erase": "none"},
            {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "gd"},
        ),
        (
            {"bias": "dot", "erase": "none"},
            {"structure": "matrix", "bias": "dot", "retention": "scalar", "algorithm": "gd"},
        ),
    ],
    ids=["l2 is DGD", "dot is error-first delta", "l2 without erase is too", "dot without erase is Hebbian"],
)
def test_the_main_matrix_is_a_known_rule_over_what_was_generated(options: dict[str, Any], twin: dict[str, Any]) -> None:
    """An independent rule, run exactly by `chunkwise` on the recorded keys, values and rates, reads the same."""
    rule, params = setup({"structure": "matrix", **options})
    given = tokens(rule, 11)
    y, made = recorded(rule, params, given)
    known, spread = rule_of(twin), strategy_of("chunkwise", rule_of(twin), chunk=4)
    start = Params(matrix=params.main_matrix)
    expected, _ = spread(known, start, Tokens.of({**made, "q": given.q}), spread.init_state(known, start, B))
    torch.testing.assert_close(y, expected, atol=EXACT, rtol=EXACT)


def test_without_writing_every_memory_decays_and_nothing_else() -> None:
    rule, params = setup({})
    still = params.replace(write_shift=torch.full((H,), -2000.0, dtype=torch.float64))
    still = still.replace(retain_row=0.0 * params.retain_row, retain_shift=0.0 * params.retain_shift)
    given = tokens(rule, 5)
    _, after = Sequential()(rule, still, given, rule.init_state(still, B))
    kept = float(rule.rates["retain"].used(torch.tensor(rule.rates["retain"].raw_init(), dtype=torch.float64)))
    for name, one in after.memory.items():
        torch.testing.assert_close(one, (kept**5 * still[name]).repeat(B, 1, 1, 1), atol=EXACT, rtol=EXACT)


def test_short_values_are_left_alone_and_long_ones_are_not() -> None:
    rule, params = setup({})
    free, _ = setup({"values": "free"})
    given = tokens(rule, 6)
    short = given.replace(x=0.1 * given.x)
    small = params.replace(**{name: 0.3 * one for name, one in params.items() if name.startswith("value_")})

    def read(one: SelfModifyingTitans, tokens: Tokens) -> Tensor:
        return Sequential()(one, small, tokens, one.init_state(small, B))[0]

    assert torch.equal(read(rule, short), read(free, short))
    assert not torch.equal(read(rule, given.replace(x=20 * given.x)), read(free, given.replace(x=20 * given.x)))


def test_the_gap_between_chunk_and_step_is_second_order_in_the_step_size() -> None:
    """With hardly any decay; a decay moves keys and values inside a chunk, whatever the step size."""

    def gap(largest: float) -> float:
        rule, params = setup({"largest_write": largest})
        params = params.replace(retain_row=0.0 * params.retain_row, retain_shift=params.retain_shift + 2000.0)
        given = tokens(rule, 8)
        y, _ = Frozen(chunk=8)(rule, params, given, Frozen(chunk=8).init_state(rule, params, B))
        z, _ = Sequential()(rule, params, given, rule.init_state(params, B))
        return float((y - z).abs().max())

    assert 3.0 < gap(0.02) / gap(0.01) < 5.0


def test_used_rates_stay_inside_their_ranges_for_any_answer() -> None:
    rule, params = setup({})
    wild = params.replace(write_row=1e6 * params.write_row, retain_row=1e6 * params.retain_row)
    given = tokens(rule, 32)
    factors = rule._factors(wild, rule.init_state(wild, B).memory, given)
    assert float(factors.keep.min()) >= 0.5
    assert float(factors.keep.max()) <= 0.9999
    one, shift = setup({})[0], params.replace(write_shift=torch.full((H,), 2000.0, dtype=torch.float64))
    assert one.rates["write"].high == 0.25
    assert setup({"momentum": True})[0].rates["write"].high == pytest.approx(0.025)
    y, _ = Sequential()(rule, shift, given, rule.init_state(shift, B))
    assert bool(torch.isfinite(y).all())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"bias": "dot"}, "no smallest loss"),
        ({"erase": "frist"}, 'erase = "frist"; did you mean "first"'),
        ({"values": "unit"}, 'values = "unit"'),
        ({"largest_write": 0.0}, "expected a number in"),
        ({"projection_chunks": 0}, "projection_chunks = 0; expected an integer >= 1"),
        ({"structure": "slots"}, "live on the sphere"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(HecateError, match=reason):
        SelfModifyingTitans(**options)


def test_the_exact_chunk_form_is_refused_because_values_are_answers() -> None:
    rule = rule_of("self-modifying-titans")
    offered: object = rule.offers(Affine)
    assert isinstance(offered, Refused)
    with pytest.raises(CompositionError, match="the value is what the memory itself makes of it"):
        strategy_of("chunkwise", rule)


def test_shards_serve_it_where_no_keys_are_wanted() -> None:
    """TNT projects queries on the keys of a shard; keys that a memory makes are not to be had before it is read."""
    if "tnt" not in registry().names("strategy"):
        pytest.skip("no plugin has it")
    rule = rule_of("self-modifying-titans")
    with pytest.raises(CompositionError, match="no keys as wide as queries"):
        strategy_of("tnt", rule)
    assert not strategy_of({"name": "tnt", "project": False}, rule, chunk=4).exact


def test_the_functional_door_names_the_input_that_it_lacks() -> None:
    rule, _ = setup({"structure": "matrix"})
    given = tokens(rule, 4)
    with pytest.raises(InputError, match="x"):
        memory(given.q, given.x, given.x, rule=rule)


@pytest.mark.soak
@pytest.mark.parametrize("chunk", [1, 16])
@pytest.mark.parametrize("kind", ["random", "periodic", "large"])
def test_ten_thousand_tokens_at_the_bounds_stay_finite(chunk: int, kind: str) -> None:
    rule, params = setup({})
    far = {f"{name}_shift": torch.full((H,), 2000.0, dtype=torch.float64) for name in rule.rates}
    pinned = params.replace(**far)
    count = 10_000 if chunk > 1 else 2_000
    given = tokens(rule, count)
    if kind == "periodic":
        given = given.replace(x=given.x[:, :, :5].repeat(1, 1, count // 5, 1))
    elif kind == "large":
        given = given.replace(x=10.0 * given.x)
    spread = Frozen(chunk=chunk)
    with torch.no_grad():
        y, _ = spread(rule, pinned, given, spread.init_state(rule, pinned, B))
    assert float(y.abs().max()) < 100.0


def test_the_token_makes_the_query_from_what_the_token_before_left() -> None:
    """By hand for a matrix: y = M_main,t unit(M_query,t-1 x); `front` asks the memory that the token has written."""
    params, x = setup({"structure": "matrix", "adapt_q": True})[1], torch.randn(1, 1, 1, K, dtype=torch.float64)
    reads = {}
    for query in ("token", "front"):
        rule = SelfModifyingTitans(structure="matrix", adapt_q=True, query=query, largest_write=1.0)
        given = {name: x.expand(1, H, 1, K) for name in rule.inputs}
        start = rule.init_state(params, 1)
        y, after = rule.step(params, start, Tokens.of(given).map(lambda one: one[:, :, 0]))
        asked = times((start if query == "token" else after).memory.query_matrix, given["q"][:, :, 0])
        q = asked * torch.rsqrt(asked.square().sum(-1, keepdim=True) + 1e-12)
        torch.testing.assert_close(y, times(after.memory.main_matrix, q), atol=EXACT, rtol=EXACT)
        reads[query] = y
        later = rule.read(params, after, given["q"])  # a token that is only read asks what is there
        asked = times(after.memory.query_matrix, given["q"][:, :, 0])
        q = asked * torch.rsqrt(asked.square().sum(-1, keepdim=True) + 1e-12)
        torch.testing.assert_close(later[:, :, 0], times(after.memory.main_matrix, q), atol=EXACT, rtol=EXACT)
    assert not torch.equal(reads["token"], reads["front"])


def test_a_layer_gives_the_token_once_and_as_long_as_it_is() -> None:
    knobs = {"name": "self-modifying-titans", "adapt_q": True}
    token = leveled_memory(8, 2, rule=knobs, strategy="frozen", chunk=4).levels[0]
    front = leveled_memory(8, 2, rule={**knobs, "query": "front"}, strategy="frozen", chunk=4).levels[0]
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1))
    one, two = (level.front(x, level.init_state(1).front)[0] for level in (token, front))
    assert set(one) == {"q"}
    assert set(two) == {"q", "x"}
    assert float(two.q.detach().norm(dim=-1).sub(1.0).abs().max()) < 1e-4
    assert float(one.q.detach().norm(dim=-1).sub(1.0).abs().min()) > 1e-3


@pytest.mark.parametrize("projections", [1, 2])
def test_what_is_only_read_asks_as_a_resting_token_does(projections: int) -> None:
    """Its query is made by the memory that it meets, wherever in a chunk."""
    rule, params = setup({"adapt_q": True, "projection_chunks": projections})
    given, spread = tokens(rule, 9), Frozen(chunk=3)
    shown = spread.around(rule)
    for count in (2, 3, 4, 6):
        _, state = spread(
            rule, params, given.map(lambda one, n=count: one[:, :, :n]), spread.init_state(rule, params, B)
        )
        last = given.map(lambda one: one[:, :, 8:])
        y, _ = spread(rule, params, last, state, torch.zeros(B, 1, dtype=torch.bool))
        torch.testing.assert_close(shown.read(params, state, last.q), y, atol=EXACT, rtol=EXACT)
