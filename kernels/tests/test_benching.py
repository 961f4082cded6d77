"""A rule's own pair is timed: `hecate bench` runs the kernels of the strategy that has them."""

from hecate_core.benching import Plan, bench


def test_a_pair_for_the_rules_own_step_is_timed_on_the_host() -> None:
    rows = bench(Plan(rules=("lattice",), lengths=(4,), backends=("host",), width=8, heads=2, seconds=0.0))["rows"]
    assert [(row["strategy"], row["backend"]) for row in rows] == [("sequential", "reference"), ("sequential", "host")]
    for row in rows:
        assert row["forward"]["tokens_per_second"] > 0
        assert row["forward_and_backward"]["tokens_per_second"] > 0
