"""The twins of a comparison: a memory that is never written, and a write range with its upper half removed."""

import pytest
import torch

from hecate_core.blueprint import compose
from hecate_core.building import Build
from hecate_core.composing import rule_of
from hecate_core.config import make_config
from hecate_core.errors import CompositionError
from hecate_core.functional import memory
from hecate_core.registry import registry


def table(rule: str, *, writes: bool) -> dict[str, object]:
    return {
        "data": {"task": {"name": "parity", "tokens": 6}, "batch": 2},
        "optimizer": {"name": "adamw", "weight_decay": 0.0},
        "model": {
            "width": 8, "depth": 1, "vocab": 2, "composition": "lmm",
            "memory": {"rule": rule, "strategy": "sequential", "writes": writes},
        },
    }  # fmt: skip


@pytest.mark.parametrize("rule", registry().names("rule"))
def test_a_memory_without_writes_is_the_one_whose_writes_are_masked(rule: str) -> None:
    if rule == "atlas":
        pytest.skip("its default features are wide; the twin lies in the layer, before any rule")
    on, off = (compose(make_config(table(rule, writes=writes))) for writes in (True, False))
    off.load_state_dict(on.state_dict())
    ids = torch.randint(2, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        masked, _ = on(ids, on.init_state(2), torch.zeros(2, 6, dtype=torch.bool))
        twin, after = off(ids, off.init_state(2))
        written, _ = on(ids, on.init_state(2))
    assert torch.equal(twin, masked)
    assert not torch.equal(twin, written)
    start = off.init_state(2).flat()
    assert all(torch.equal(after.flat()[name], one) for name, one in start.items() if ".rule.memory." in name)


def test_a_build_without_writes_goes_through_the_wall() -> None:
    made = Build(make_config(table("titans", writes=False)))
    before = {name: one.clone() for name, one in made.model.named_parameters()}
    made.step()
    moved = {name for name, one in made.model.named_parameters() if not torch.equal(one, before[name])}
    assert "head.weight" in moved
    assert not any(".gates." in name for name in moved)


def test_reach_lets_a_write_turn_a_sign_and_only_where_it_contracts() -> None:
    """Write 2, value 1/2: the read goes 1, 0, 1, 0 (s' = 2 v - s); that is the parity of the tokens."""
    one, two = torch.ones(1, 1, 4, 1), torch.full((1, 1, 4), 2.0)
    gates = {"retain": torch.ones(1, 1, 4), "write": two}
    rule = {"name": "delta", "reach": 2.0}
    for strategy in ("sequential", "chunkwise"):
        y, _ = memory(one, one, one / 2, rule=rule, gates=gates, strategy=strategy)
        assert torch.allclose(y.flatten(), torch.tensor([1.0, 0.0, 1.0, 0.0]), atol=1e-6)
    assert (rule_of(rule).gates["write"].high, rule_of("delta").gates["write"].high) == (2.0, 1.0)
    for wrong in ({"name": "delta", "reach": 2.0, "at": "raw"}, {"name": "delta", "reach": 2.5}):
        with pytest.raises(CompositionError, match=r"gd: reach = 2.*expected above 0 and at most"):
            rule_of(wrong)
