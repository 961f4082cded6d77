"""Every optimizer of this plugin in a build behind the wall, and the options that they refuse."""

from typing import Any

import pytest
import torch
from torch import nn

from hecate_core.building import Build
from hecate_core.config import make_config
from hecate_core.errors import InputError
from hecate_core.registry import registry


@pytest.mark.parametrize("name", ["m3", "muon", "adamuon", "delta-momentum", "dgd"])
def test_a_build_behind_the_wall_takes_it_and_resumes(name: str) -> None:
    """Forward under a Tape, levels of periods 1 and 2, saved after an odd step."""
    config = make_config(
        {
            "data": {"batch": 2, "length": 16},
            "model": {"width": 8, "depth": 1, "heads": 2, "memory": {"chunk": 8, "levels": [1, 2]}},
            "optimizer": {"name": name, "lr": 0.01},
            "schedule": {"warmup": 0},
        }
    )
    whole = Build(config)
    for _ in range(3):
        whole.step()
    parts, meta = whole.parts()
    saved = {part: {n: t.clone() for n, t in tensors.items()} for part, tensors in parts.items()}
    expected = [whole.step()["loss"] for _ in range(3)]
    again = Build(config)
    again.restore(saved, meta)
    assert [again.step()["loss"] for _ in range(3)] == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    if name == "dgd":
        slow = [
            n for n, level in again.optimizer.level_of.items() if level == 1 and n in again.optimizer.state["count"]
        ]
        assert slow
        assert all(float(again.optimizer.state["count"][n]) > 0 for n in slow)  # step 5 rested


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "m3", "mode": "noBeta"}, "optimizer.mode = 'noBeta'; expected 'ema', 'literal', 'noV'"),
    ({"name": "m3", "betas": [0.9, 0.9]}, "3 items"),
    ({"name": "m3", "betas": [0.9, 0.9, 1.0]}, "optimizer.betas[2] = 1.0; expected a number in [0, 1)"),
    ({"name": "m3", "period": 0}, "optimizer.period = 0; expected an integer >= 1"),
    ({"name": "m3", "slow": -0.5}, "optimizer.slow = -0.5; expected a finite number >= 0"),
    ({"name": "m3", "perod": 3}, 'unknown option "perod"; did you mean "period"?'),
    ({"name": "muon", "momentum": 1.0}, "optimizer.momentum = 1.0; expected a number in [0, 1)"),
    ({"name": "muon", "adjust": "rms"}, "expected 'match_rms_adamw' or 'original'"),
    ({"name": "muon", "steps": 0}, "optimizer.steps = 0; expected an integer >= 1"),
    ({"name": "muon", "adamw": ["wieght"]}, 'no parameter has "wieght" in its name; did you mean "weight"?'),
    ({"name": "adamuon", "steps": -1}, "optimizer.steps = -1; expected an integer >= 0"),
    ({"name": "adamuon", "square": "both"}, "expected 'gradient' or 'update'"),
    ({"name": "adamuon", "size": "big"}, "expected 'rms' or 'printed'"),
    ({"name": "delta-momentum", "erase": 1.5}, "optimizer.erase = 1.5; expected a number in [0, 1]"),
    ({"name": "delta-momentum", "rate": "both"}, "expected 'inside' or 'outside'"),
    ({"name": "dgd", "erase": 2.0}, "optimizer.erase = 2.0; expected a number in [0, 1]"),
]


@pytest.mark.parametrize(("given", "reason"), REFUSED, ids=[f"{one['name']}-{reason[-30:]}" for one, reason in REFUSED])
def test_bad_options_are_refused_in_one_line(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError) as caught:
        registry().create("optimizer", given, named_parameters=nn.Linear(4, 3))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
