"""Ranges under a strategy whose errors are old: derived from form and anchor, and safe by the circle criterion."""

import pytest
import torch

from hecate_core.checking.ranges import ranges
from hecate_core.composing import leveled_memory, rule_of, strategy_of
from hecate_core.config import make_config
from hecate_core.errors import CompositionError
from hecate_core.gates import steady_write
from hecate_core.strategy_gates import gates_under, share_of

KNOBS = {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "gd"}


def share(rule: object, strategy: object, chunk: int = 64) -> float:
    made = rule_of(rule)
    return share_of(made, strategy_of(strategy, made, chunk=chunk))


@pytest.mark.parametrize(
    ("rule", "strategy", "chunk", "left"),
    [
        ("delta", "chunkwise", 64, 1.0),
        ("delta", "sequential", 64, 1.0),
        ("delta", "frozen", 64, 1 / 64),
        ("delta", "frozen", 1, 1.0),
        ("titans", "frozen", 16, 1 / 16),
        ("kda", {"name": "tnt"}, 16, 1 / 64),
        ("kda", {"name": "tnt", "reduce": "mean"}, 16, 1 / 8),
        ("kda", {"name": "tnt", "global_chunk": 4, "local_chunks": [16]}, 16, 1 / 16),
        ("titans-deep", "frozen", 8, 1.0),
        ("titans-deep", "frozen", 64, 1 / 8),
        ("yaad", "frozen", 16, 1.0),
        ("trellis", "frozen", 8, 1.0),
        ("trellis", "frozen", 64, 1 / 8),
        ("yaad", "frozen", 64, 1 / 4),
        ("hebbian", "frozen", 64, 1.0),  # its steps do not follow what it answers
        ("linear", {"name": "tnt"}, 64, 1.0),
        ("dgd", "frozen", 64, 1.0),  # what it erases reads the memory that runs
        ("memora", "frozen", 64, 1.0),  # a mass cannot grow
        ("lattice", "frozen", 64, 1.0),
        ("atlas", "frozen", 64, 1.0),  # a step of fixed size
    ],
)
def test_what_is_left_of_the_write_range_follows_from_form_and_anchor(
    rule: str, strategy: object, chunk: int, left: float
) -> None:
    assert share(rule, strategy, chunk) == pytest.approx(left)


def test_a_level_is_built_with_the_range_that_holds() -> None:
    for strategy, high, start in (("chunkwise", 1.0, 0.5), ("frozen", 1 / 16, 1 / 32)):
        level = leveled_memory(8, 2, rule="delta", strategy=strategy, chunk=16).levels[0]
        gate = level.gates.declared["write"]
        assert (gate.high, gate.init) == pytest.approx((high, start))
        used = level.gates(torch.randn(2, 50, 8) * 100.0).write.detach()
        assert float(used.max()) <= high * (1 + 1e-6)
    wider = [{"gates": {"write": {"high": 0.5}}}]
    with pytest.raises(CompositionError, match="wider than the declared"):
        leveled_memory(8, 2, rule="delta", strategy="frozen", chunk=16, levels=wider)


def told(**memory: object) -> list[str]:
    table = {"model": {"width": 8, "memory": {"rule": "delta", **memory}}}
    return [one.line for one in ranges(make_config(table))]


def test_a_check_tells_the_range_that_holds_and_why() -> None:
    assert told(strategy="frozen", chunk=16) == [
        "level 0: retain in [0, 0.9999], starts at 0.98",
        "level 0: write in [0, 0.0625], starts at 0.03125 (declared to 1; 16 tokens take their errors at one memory)",
    ]
    assert told(chunk=16)[1] == "level 0: write in [0, 1], starts at 0.5"
    levels = [{}, {"gates": {"write": {"high": 0.01}}}]
    assert told(strategy="frozen", chunk=16, levels=levels)[3].startswith("level 1: write in [0, 0.01], starts at 0.01")
    assert told(rule="linear") == [] == told(strategy="frozen", rule={"name": "delta", "reach": 9.0})


def test_a_fixed_rate_is_refused_where_it_sums_up_too_far_and_taken_where_not() -> None:
    for rate, served in ((0.1, 10), (0.5, 2)):
        rule = rule_of({**KNOBS, "algorithm": {"name": "gd", "rate": rate}})
        gates_under(rule, strategy_of("frozen", rule, chunk=served))
        with pytest.raises(CompositionError, match=f"no write gate and is stable for {served}; choose a smaller chunk"):
            leveled_memory(8, 2, rule=rule, strategy="frozen", chunk=served + 1)


def circle_bound(anchor: int, retain: float, momentum: float) -> float:
    """The largest step that no order of unit keys makes grow with `anchor` errors taken at one memory: the criterion.

    In chunks: A' = a^C A + x S - sum c_i u_i, S' = m^C S - sum s_i u_i, and every u_i a part in [0, write] of A. With q
    the transfer from u to A, write <= 2 / (sqrt(C |q|^2 - Im(sum q)^2) - Re(sum q)) at every frequency.
    """
    a, m, count = retain, momentum, anchor
    z = torch.exp(1j * torch.logspace(-6, 0.4971, 2000, dtype=torch.float64))
    since = torch.arange(count - 1, -1, -1, dtype=torch.float64)
    s = m**since
    c = torch.tensor([sum(m**k * a ** (n - k) for k in range(n + 1)) for n in reversed(range(count))]).double()
    x = sum(m**k * a ** (count - k) for k in range(1, count + 1))
    over = (z - a**count) * (z - m**count)
    q = (c * (z - m**count).unsqueeze(1) + x * s) / over.unsqueeze(1)
    total = q.sum(1)
    root = (count * q.abs().square().sum(1) - total.imag.square()).clamp(min=0.0).sqrt()
    return float(2.0 / (root - total.real).max())


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.6, 0.8, 0.9])
def test_a_share_of_one_by_the_anchor_is_enough_for_keys_in_any_order(momentum: float) -> None:
    alone = min(steady_write(momentum), 1.0)
    assert circle_bound(1, 1.0 - 1e-9, momentum) == pytest.approx(steady_write(momentum), rel=1e-3)
    for anchor in (1, 2, 8, 16, 64):
        for retain in (0.0, 0.5, 0.9, 0.98, 0.9999):
            assert alone / anchor <= circle_bound(anchor, retain, momentum) * (1.0 + 1e-6)
