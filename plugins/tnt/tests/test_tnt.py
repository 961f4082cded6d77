"""TNT against its equations token by token, its limits, restarts, causality, and its two stages."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hecate_tnt.projection import projected
from hecate_tnt.strategy import TNT

from hecate_core import memory
from hecate_core.api import CompositionError, InputError, State, Tensor
from hecate_core.building import Build
from hecate_core.composing import presented, rule_of, strategy_of
from hecate_core.config import make_config
from hecate_core.memory_layer import MemoryLayer
from hecate_core.testing.strategies import check_strategy

EXACT = 1e-11  # float64, the same sums in another order over at most 50 tokens
SPREAD = 1e-7  # the same after 23 tokens of a rule whose layer norm amplifies every rounding
B, H, K = 2, 2, 4
RULES = ["delta", "titans", "titans-deep", "yaad", "lattice", "omega"]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(count: int, rule: str = "delta") -> dict[str, Any]:
    """Inputs with unit keys, and gates inside their ranges, as `memory` takes them."""
    made: dict[str, Any] = {name: normal(B, H, count, K, seed=seed) for seed, name in enumerate("qkv")}
    made["k"] = F.normalize(made["k"], dim=-1)
    random = torch.Generator().manual_seed(9)
    gates = {}
    for name, gate in rule_of(rule).gates.items():
        width = () if gate.width is None else (2,)  # omega's window of two
        share = 0.2 + 0.4 * torch.rand(B, H, count, *width, generator=random, dtype=torch.float64)
        gates[name] = gate.low + (min(gate.high, 1.0) - gate.low) * share
    return {**made, "gates": gates}


def plain(rule: str) -> Any:
    return {"name": "omega", "window": 2, "features": "identity"} if rule == "omega" else rule


def run(given: Mapping[str, Any], strategy: Any, rule: str = "delta", **more: Any) -> tuple[Tensor, State]:
    y, state = memory(**given, rule=plain(rule), strategy=strategy, **more)
    return y, state


def cut(given: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    part = {name: one[:, :, start:stop] for name, one in given.items() if isinstance(one, Tensor)}
    return {**part, "gates": {name: one[:, :, start:stop] for name, one in given["gates"].items()}}


def tnt(**options: Any) -> dict[str, Any]:
    return {"name": "tnt", **options}


ALONE = {"global_chunk": 0, "project": False}  # local memories without anything else


def parameters(rule: str, strategy: Any, *, same: bool = False) -> dict[str, Tensor]:
    """Of the rule as the strategy shows it: random, every memory another one, or all as the rule's own."""
    shown = presented(rule_of(plain(rule)), strategy_of(strategy, rule_of(plain(rule))))
    from hecate_core.widths import full_widths

    widths = full_widths(shown, {"H": H, "K": K, "V": K, "M": K})
    made = {}
    for seed, (name, one) in enumerate(shown.params.items()):
        seed = sum(map(ord, name.split("_", 1)[-1] if same and name.startswith("local") else name)) if same else seed
        start = 0.5 * normal(*(widths[letter] for letter in one.axes.split()), seed=40 + seed)
        made[name] = F.normalize(start, dim=-2) if rule == "lattice" else start
    return made


# --- the equations -----------------------------------------------------------------------------------------------


def test_delta_by_hand() -> None:
    """Eq. 1 to 4 with the delta rule, error first, as loops over tokens: two local memories and a global one."""
    given, count, c = tokens(26), 26, 6
    locals_, shards = (2, 4), (4, 8)
    strategy = tnt(global_chunk=c, local_chunks=list(locals_), shards=list(shards))
    start = parameters("delta", strategy)
    y, _ = memory(**given, rule={"name": "delta", "at": "raw"}, strategy=strategy, params=start)
    q, k, v = (given[name] for name in "qkv")
    retain, write = (given["gates"][name][..., None, None] for name in ("retain", "write"))

    def grown(m: Tensor, anchor: Tensor, t: int) -> Tensor:
        error = (anchor @ k[:, :, t, :, None]).squeeze(-1) - v[:, :, t]
        after: Tensor = retain[:, :, t] * m - write[:, :, t] * error[..., None] * k[:, :, t, None]
        return after

    total = torch.zeros_like(v)
    m = anchor = start["matrix"].expand(B, H, K, K)
    for t in range(count):
        anchor = m if t % c == 0 else anchor
        total[:, :, t] += (anchor @ q[:, :, t, :, None]).squeeze(-1)
        m = grown(m, anchor, t)
    for i, (chunk, shard) in enumerate(zip(locals_, shards, strict=True)):
        for t in range(count):
            if t % shard == 0:
                m, p = start[f"local{i}_matrix"].expand(B, H, K, K), torch.zeros(B, H, K, K).double()
            anchor = m if t % chunk == 0 else anchor
            p = p + k[:, :, t, :, None] * k[:, :, t, None] / k[:, :, t].square().sum(-1)[..., None, None]
            m = grown(m, anchor, t)
            total[:, :, t] += (m @ p @ q[:, :, t, :, None]).squeeze(-1)
    assert float((y - total).abs().max()) < EXACT


def test_the_projection_leaves_what_keys_span_and_drops_the_rest() -> None:
    """Orthonormal keys: a query passes by its share along the keys so far, and whole once they span everything."""
    keys = torch.linalg.qr(normal(B, H, K, K, seed=1)).Q
    q = normal(B, H, 1, K, seed=2).expand(B, H, K, K)
    found, after = projected(q, 3.0 * keys, torch.zeros(B, H, K, K).double(), None)
    for t in range(K):
        seen = keys[:, :, : t + 1]
        assert torch.allclose(found[:, :, t], (q[:, :, t, None] @ seen.mT @ seen).squeeze(2), atol=EXACT)
    assert torch.allclose(after, torch.eye(K).double().expand(B, H, K, K), atol=EXACT)
    long_q, long_k = normal(B, H, 150, K, seed=3), normal(B, H, 150, K, seed=4)
    whole, end = projected(long_q, long_k, after, None)
    halves, state = [], after
    for part in (slice(0, 70), slice(70, 150)):
        y, state = projected(long_q[:, :, part], long_k[:, :, part], state, None)
        halves.append(y)
    assert torch.allclose(torch.cat(halves, 2), whole, atol=1e-9)
    assert torch.allclose(state, end, atol=1e-9)
    silent = torch.zeros(B, 150, dtype=torch.bool)
    assert torch.equal(projected(long_q, long_k, after, silent)[1], after)
    assert projected(q, torch.zeros_like(q), torch.zeros_like(after), None)[0].abs().max() == 0


# --- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chunk", [1, 4])
def test_one_local_memory_over_everything_is_frozen(rule: str, chunk: int) -> None:
    given, strategy = tokens(23, rule), tnt(**ALONE, local_chunks=[chunk], shards=[64])
    start = parameters(rule, strategy)
    y, _ = run(given, strategy, rule, params=start)
    own = {name.removeprefix("local0_"): one for name, one in start.items()}
    z, _ = run(given, "frozen", rule, chunk_size=chunk, params=own)
    assert torch.equal(y, z)
    if chunk == 1:
        z, _ = run(given, "sequential", rule, params=own)
        assert float((y - z).abs().max()) < SPREAD * max(1.0, float(z.abs().max()))


@pytest.mark.parametrize("rule", RULES)
def test_the_global_memory_alone_is_frozen_read_at_its_anchor(rule: str) -> None:
    given, strategy = tokens(23, rule), tnt(global_chunk=4, local_chunks=[], shards=[])
    start = parameters(rule, strategy)
    y, end = run(given, strategy, rule, params=start)
    z, other = run(given, {"name": "frozen", "read": "anchor"}, rule, chunk_size=4, params=start)
    assert torch.equal(y, z)
    assert end.flat().keys() == other.flat().keys()


def test_shards_are_texts_of_their_own() -> None:
    """Without a global memory every shard reads what it would read alone, and W_init gets a gradient from each."""
    given, strategy = tokens(24, "titans"), tnt(global_chunk=0, local_chunks=[4], shards=[8])
    start = {name: one.requires_grad_() for name, one in parameters("titans", strategy).items()}
    y, _ = run(given, strategy, "titans", params=start)
    alone = (run(cut(given, at, at + 8), strategy, "titans", params=start)[0] for at in (0, 8, 16))
    assert float((y - torch.cat(list(alone), 2)).detach().abs().max()) < EXACT
    grads = [
        torch.autograd.grad(y[:, :, at : at + 8].sum(), list(start.values()), retain_graph=True)[0] for at in (0, 16)
    ]
    assert all(float(grad.abs().max()) > 1e-3 for grad in grads)
    keys = given["k"].requires_grad_()
    y, _ = run(given, strategy, "titans", params=start)
    assert torch.autograd.grad(y[:, :, 8:].sum(), keys)[0][:, :, :8].abs().max() == 0


def test_a_global_chunk_beyond_the_text_reads_its_start() -> None:
    given = tokens(9)
    both, fine = tnt(global_chunk=64, local_chunks=[4], shards=[16]), tnt(global_chunk=0, local_chunks=[4], shards=[16])
    start = parameters("delta", both)
    y, _ = run(given, both, params=start)
    z, _ = run(given, fine, params={name: one for name, one in start.items() if name != "matrix"})
    constant = given["q"] @ start["matrix"].mT
    assert float((y - z - constant).abs().max()) < EXACT


def test_the_mean_of_a_global_chunk_keeps_a_repeated_key_bounded() -> None:
    """With the sum one key's error is multiplied by 1 - 16 write per chunk; with the mean by 1 - write."""
    given = {**tokens(320), "gates": {name: torch.full((B, H, 320), 0.9).double() for name in ("retain", "write")}}
    given["gates"]["retain"] = torch.ones(B, H, 320).double()
    given["k"] = given["k"][:, :, :1].expand(B, H, 320, K)
    sizes = {
        reduce: float(run(given, tnt(global_chunk=16, reduce=reduce, local_chunks=[], shards=[]))[0].abs().max())
        for reduce in ("sum", "mean")
    }
    assert sizes["sum"] > 1e9
    assert sizes["mean"] < 30.0
    slower = {**given, "gates": {**given["gates"], "write": given["gates"]["write"] / 16}}
    y, _ = run(slower, tnt(global_chunk=16, local_chunks=[], shards=[]))
    z, _ = run(given, tnt(global_chunk=16, reduce="mean", local_chunks=[], shards=[]))
    assert torch.equal(y, z)


# --- laws --------------------------------------------------------------------------------------------------------

SMALL = tnt(global_chunk=6, local_chunks=[2, 4], shards=[4, 8])


@pytest.mark.parametrize(
    "options", [SMALL, tnt(**ALONE, local_chunks=[3], shards=[6]), {**SMALL, "link": "chunk"}], ids=str
)
def test_the_kit_over_borders_that_its_texts_cross(options: dict[str, Any]) -> None:
    """Every law of strategies, restarts and a missing global memory included."""
    found = check_strategy(options, rules=["delta", "titans-deep", "lattice"])
    assert [one.line for one in found if not one.ok] == []


@pytest.mark.parametrize("rule", ["titans", "moneta"])
def test_any_cut_gives_the_same_text_and_state(rule: str) -> None:
    given = tokens(41, rule)
    start = parameters(rule, SMALL)
    whole, end = run(given, SMALL, rule, params=start)
    for borders in ((1, 4, 5), (7, 8, 9, 24), (13,), tuple(range(1, 41))):
        state, reads = None, []
        for at, stop in zip((0, *borders), (*borders, 41), strict=True):
            y, state = run(cut(given, at, stop), SMALL, rule, params=start, state=state)
            reads.append(y)
        assert state is not None
        assert float((torch.cat(reads, 2) - whole).abs().max()) < 1e-9 * max(1.0, float(whole.abs().max())), borders
        for name, one in end.flat().items():
            assert float((one - state.flat()[name]).abs().max()) < 1e-9 * max(1.0, float(one.abs().max())), name


@pytest.mark.parametrize("rule", ["titans", "titans-deep", "atlas"])
def test_causality_bit_for_bit_over_whole_shards(rule: str) -> None:
    """Five shards side by side; changing token j changes nothing before it."""
    given = tokens(41, "titans")
    rule_ = {"name": "atlas", "window": 2, "features": "identity"} if rule == "atlas" else rule
    if rule == "atlas":
        given["gates"]["window"] = torch.full((B, H, 41, 2), 0.7).double()
    expected, _ = memory(**given, rule=rule_, strategy=SMALL)
    for j in (3, 8, 17, 40):
        other = {**given, **{name: given[name].clone() for name in "qkv"}}
        for name in "qkv":
            other[name][:, :, j] = -given[name][:, :, j].flip(-1)  # k k^T sees no sign
        y, _ = memory(**other, rule=rule_, strategy=SMALL)
        assert torch.equal(y[:, :, :j], expected[:, :, :j])
        assert not torch.equal(y[:, :, j], expected[:, :, j])


def test_masked_tokens_enter_no_memory_and_no_projection() -> None:
    """Inside a shard: the same as a text without them, but for where chunks begin (chunk 1 here)."""
    given, strategy = tokens(14), tnt(global_chunk=0, local_chunks=[1], shards=[16])
    write = torch.ones(B, 14, dtype=torch.bool)
    write[:, 5:8] = False
    kept = [t for t in range(14) if not 5 <= t < 8]
    y, end = run(given, strategy, write_mask=write)
    without = {name: one[:, :, kept] for name, one in given.items() if isinstance(one, Tensor)}
    z, other = memory(
        **without,
        gates={name: one[:, :, kept] for name, one in given["gates"].items()},
        rule="delta",
        strategy=strategy,
    )
    assert float((y[:, :, kept] - z).abs().max()) < EXACT
    assert all(
        float((one - other.flat()[name]).abs().max()) < EXACT
        for name, one in end.flat().items()
        if "anchor" not in name
    )


def test_a_layer_with_resting_levels_and_restarts_decodes_as_it_reads() -> None:
    """Resting tokens are read through all memories; one call against many, and recall through the composition MAC."""
    torch.manual_seed(0)
    layer = MemoryLayer(8, 2, rule="titans", strategy=SMALL, chunk=4, levels=[{"reset_period": 3}, {"write_period": 3}])
    layer.double()
    names = {name for name, _ in layer.named_parameters()}
    assert {"memory.levels.0.params.local0_matrix", "memory.levels.1.params.local1_matrix"} <= names
    x = normal(2, 29, 8, seed=5)
    whole, _ = layer(x)
    state, reads = None, []
    for t in range(29):
        y, state = layer(x[:, t : t + 1], state)
        reads.append(y)
    assert float((torch.cat(reads, 1) - whole).detach().abs().max()) < 1e-9


# --- two stages, builds, refusals --------------------------------------------------------------------------------


def built(stage: int) -> Build:
    strategy = tnt(global_chunk=32, local_chunks=[8], shards=[16], stage=stage, fine_chunks=[2])
    return Build(
        make_config(
            {
                "data": {"batch": 4, "length": 32},
                "model": {"width": 16, "depth": 1, "heads": 2, "memory": {"strategy": strategy}},
                "optimizer": {"lr": 3e-3},
                "schedule": {"warmup": 0, "decay": "constant"},
            }
        )
    )


def test_the_second_stage_goes_on_where_the_first_ended() -> None:
    """Same parameters and state by name; the loss does not jump, and the finer model is another one."""
    coarse = built(1)
    losses = [coarse.step()["loss"] for _ in range(12)]
    fine = built(2)
    assert fine.model.state_dict().keys() == coarse.model.state_dict().keys()
    assert coarse.state.flat().keys() == fine.state.flat().keys()
    fine.model.load_state_dict(coarse.model.state_dict())
    ids = torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, two = (made.model(ids, made.model.init_state(2))[0] for made in (coarse, fine))
    assert not torch.equal(one, two)
    fine.stream.restore(coarse.stream.cursor(0).as_dict(), pulse_id=0)
    goes_on = fine.step()["loss"]
    assert goes_on < losses[0] - 0.5
    assert abs(goes_on - losses[-1]) < 0.5


REFUSED = [
    (tnt(global_chunk=0, local_chunks=[], shards=[]), "tnt: global_chunk = 0; expected an integer >= 1"),
    (tnt(global_chunk=-1), "tnt: global_chunk = -1"),
    (tnt(local_chunks=[0]), "tnt: local_chunks = [0]; expected integers >= 1"),
    (tnt(local_chunks=[8], shards=[12]), "tnt: shards = [12]; expected multiples of the local chunks [8]"),
    (tnt(local_chunks=[2, 4], shards=[8, 8, 8]), "expected one for all 2 local memories, or one each"),
    (tnt(reduce="none"), 'reduce = "none"; expected one of "sum", "mean"'),
    (tnt(stage=3), "tnt: stage = 3; expected 1"),
    (tnt(stage=2, fine_chunks=[16]), "tnt: fine_chunks = [16]; expected one for each of [8], none larger"),
    (tnt(local_chunk=[8]), 'unknown option "local_chunk"; did you mean "local_chunks"?'),
    (tnt(link="never"), 'link = "never"; expected one of "token", "chunk"'),
]


@pytest.mark.parametrize(("strategy", "reason"), REFUSED, ids=[reason[-30:] for _, reason in REFUSED])
def test_bad_options_are_refused_in_one_line(strategy: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError) as caught:
        strategy_of(strategy, rule_of("delta"))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_served_is_refused_with_the_reason() -> None:
    knobs = {"structure": "matrix", "bias": "l2", "retention": "f-divergence", "algorithm": "gd"}
    with pytest.raises(CompositionError, match="a step is not added to the memory"):
        strategy_of("tnt", rule_of(knobs))
    given, starts = tokens(6, "hebbian"), torch.zeros(B, 6, dtype=torch.bool)
    starts[:, 3] = True
    with pytest.raises(CompositionError, match="a document starts inside a call"):
        run(given, "tnt", "hebbian", starts=starts)


def test_a_rule_without_keys_is_served_without_the_projection_only() -> None:
    class Keyless:
        """Delta under other names."""

        def __init__(self) -> None:
            self._rule = rule_of("delta")
            self.inputs = {"q": "V", "k": "K", "v": "V"}

        def __getattr__(self, name: str) -> Any:
            return getattr(self._rule, name)

    with pytest.raises(CompositionError, match="no keys as wide as queries; set project = false"):
        TNT().around(Keyless())  # type: ignore[arg-type]
    TNT(project=False).around(Keyless())  # type: ignore[arg-type]
    with pytest.raises(CompositionError, match='no write gate; reduce = "mean" wants one'):
        strategy_of(tnt(reduce="mean"), rule_of("linear"))
