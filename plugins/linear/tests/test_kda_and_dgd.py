"""KDA, DGD and the error-first delta rule: token loops by hand, and what they equal in their limits."""

from typing import Any

import pytest
import torch

from hecate_core import memory
from hecate_core.composing import rule_of
from hecate_core.errors import CompositionError
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.shapes import Tensor

EXACT = 1e-12  # float64, two orders of the same sums
B, H, T, K, V = 2, 2, 30, 5, 4


def inputs(seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    made = {
        name: torch.randn(B, H, T, width, generator=random, dtype=torch.float64)
        for name, width in zip("qkv", (K, K, V), strict=True)
    }
    return {**made, "k": torch.nn.functional.normalize(made["k"], dim=-1)}


def gate(*width: int, seed: int = 1, high: float = 1.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    used = high * torch.rand(B, H, T, *width, generator=random, dtype=torch.float64)
    used[:, :, 3], used[:, :, 4] = 0.0, high
    return used


def run(rule: Any, given: dict[str, Tensor], strategy: Any = "chunkwise", chunk: Any = 7, **gates: Tensor) -> Tensor:
    y, _ = memory(**given, rule=rule, gates=gates, strategy=strategy, chunk_size=chunk)
    return y  # type: ignore[no-any-return]


def close(one: Tensor, two: Tensor) -> bool:
    return float((one - two).abs().max()) < EXACT * max(1.0, float(two.abs().max()))


def test_kda_is_the_loop_of_its_specification() -> None:
    given, retain, write = inputs(), gate(K), gate(seed=2)
    state, reads = torch.zeros(B, H, V, K, dtype=torch.float64), []
    for t in range(T):
        q, k, v = (given[name][:, :, t] for name in "qkv")
        transition = torch.diag_embed(retain[:, :, t]) @ (
            torch.eye(K, dtype=torch.float64) - write[:, :, t, None, None] * k.unsqueeze(-1) * k.unsqueeze(-2)
        )
        state = state @ transition + write[:, :, t, None, None] * v.unsqueeze(-1) * k.unsqueeze(-2)
        reads.append((state @ q.unsqueeze(-1)).squeeze(-1))
    for strategy, chunk in (("sequential", 1), ("chunkwise", 1), ("chunkwise", 7), ("chunkwise", 64), ("frozen", 1)):
        assert close(run("kda", given, strategy, chunk, retain=retain, write=write), torch.stack(reads, 2)), strategy


def test_kda_with_equal_channels_is_the_delta_rule() -> None:
    given, retain, write = inputs(), gate(), gate(seed=2)
    wide = retain.unsqueeze(-1).expand(-1, -1, -1, K)
    assert close(run("kda", given, retain=wide, write=write), run("delta", given, retain=retain, write=write))


@pytest.mark.parametrize("bias", ["dot", "l2"])
def test_dgd_is_the_loop_of_its_specification(bias: str) -> None:
    given, retain, write, erase = inputs(), gate(), gate(seed=2, high=0.5), gate(seed=3)
    for own in (False, True):
        state, reads = torch.zeros(B, H, V, K, dtype=torch.float64), []
        for t in range(T):
            q, k, v = (given[name][:, :, t].unsqueeze(-1) for name in "qkv")
            a, w, e = (one[:, :, t, None, None] for one in (retain, write, erase if own else write))
            gradient = (-v if bias == "dot" else state @ k - v) @ k.mT
            state = state @ (a * torch.eye(K, dtype=torch.float64) - e * (k @ k.mT)) - w * gradient
            reads.append((state @ q).squeeze(-1))
        rule = {"name": "dgd", "bias": bias, "erase": "gate" if own else "write"}
        gates = {"retain": retain, "write": write, **({"erase": erase} if own else {})}
        for strategy, chunk in (("sequential", 1), ("chunkwise", 7), ("chunkwise", 64), ("frozen", 1)):
            assert close(run(rule, given, strategy, chunk, **gates), torch.stack(reads, 2)), (strategy, own)


def test_dgd_with_the_dot_bias_is_the_delta_rule_error_first() -> None:
    given, gates = inputs(), {"retain": gate(), "write": gate(seed=2)}
    assert close(run("dgd", given, **gates), run({"name": "delta", "at": "raw"}, given, **gates))


def test_dgd_with_l2_is_the_delta_rule_at_twice_the_rate_on_half_the_value() -> None:
    given, retain, write = inputs(), gate(), gate(seed=2, high=0.5)
    found = run({"name": "dgd", "bias": "l2"}, given, retain=retain, write=write)
    halved = {**given, "v": given["v"] / 2}
    assert close(found, run({"name": "delta", "at": "raw"}, halved, retain=retain, write=2 * write))


def test_dgd_with_l2_and_no_erase_is_the_plain_delta_rule() -> None:
    given, gates = inputs(), {"retain": gate(), "write": gate(seed=2, high=0.5)}
    found = run({"name": "dgd", "bias": "l2", "erase": "gate"}, given, erase=torch.zeros(B, H, T), **gates)
    assert close(found, run({"name": "delta", "at": "raw"}, given, **gates))


def test_both_orders_of_the_delta_rule_map_onto_each_other() -> None:
    """Error first at (retain, write, v) is decay first at (retain, write / retain, retain v)."""
    given, retain = inputs(), gate().clamp(min=0.5)
    write = 0.5 * gate(seed=2)
    found = run({"name": "delta", "at": "raw"}, given, retain=retain, write=write)
    scaled = {**given, "v": retain.unsqueeze(-1) * given["v"]}
    assert close(found, run("delta", scaled, retain=retain, write=write / retain))


def test_titans_without_momentum_is_the_delta_rule_error_first() -> None:
    given, retain, write = inputs(), gate(), gate(seed=2)
    found = run("titans", given, retain=retain, write=write, momentum=torch.zeros(B, H, T))
    assert close(found, run({"name": "delta", "at": "raw"}, given, retain=retain, write=write))


def test_delta_with_write_one_stores_a_unit_key_and_with_write_zero_only_decays() -> None:
    given, one, zero = inputs(), torch.ones(B, H, T), torch.zeros(B, H, T)
    asked = {**given, "q": given["k"]}
    assert close(run("delta", asked, retain=gate(), write=one), given["v"])
    assert not run("kda", given, retain=gate(K), write=zero).any()


def test_orthonormal_keys_are_recalled_perfectly() -> None:
    k = torch.eye(K, dtype=torch.float64)[torch.arange(2 * K) % K].expand(1, 1, -1, -1)
    v = torch.randn(1, 1, K, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = torch.cat((v, v), 2)  # every pair twice: the second time nothing is left to write
    one = torch.ones(1, 1, 2 * K)
    for rule, wide in (("delta", one), ("kda", one.unsqueeze(-1).expand(-1, -1, -1, K)), ("dgd", one)):
        y, state = memory(k, k, v, rule=rule, gates={"retain": wide, "write": one})
        assert close(y, v), rule
        assert close((state.memory.matrix @ k[:, :, :K].mT).mT, v[:, :, :K]), rule


def test_dgd_takes_any_bias_and_offers_what_that_bias_allows() -> None:
    rule = rule_of({"name": "dgd", "bias": "l2"})
    assert rule.gates["write"].high == 0.5  # 2 write <= 1 + retain for every retain
    assert not isinstance(rule.offers(Affine), Refused)
    for bias, exact in (("dot", True), ("l2", False)):  # the erase runs; a gradient of l2 sees the anchor
        frozen = rule_of({"name": "dgd", "bias": bias}).offers(Linearised)
        assert not isinstance(frozen, Refused)
        assert frozen.exact == exact
    with pytest.raises(CompositionError, match='expected "write"'):
        rule_of({"name": "dgd", "erase": "none"})
