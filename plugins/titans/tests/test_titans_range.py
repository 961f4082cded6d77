"""The range of the gates of Titans: what is declared stays bounded, what is refused does not."""

import pytest
import torch
import torch.nn.functional as F
from hecate_titans.titans import titans

from hecate_core import memory
from hecate_core.errors import CompositionError

COUNT, WIDTH = 2000, 16


def largest_read(write: float, momentum: float) -> float:
    """Over random unit keys, almost nothing forgotten."""
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, COUNT, WIDTH, generator=random) for _ in range(3))
    gates = {name: torch.full((1, 1, COUNT), value) for name, value in (("write", write), ("momentum", momentum))}
    gates["retain"] = torch.full((1, 1, COUNT), 0.9999)
    y, _ = memory(q, F.normalize(k, dim=-1), v, rule="titans", gates=gates)
    return float(y.abs().nan_to_num(nan=float("inf")).max())


@pytest.mark.parametrize(("write", "momentum"), [(0.2, 0.9), (0.1, 0.95), (1.0, 0.5), (0.02, 0.99)])
def test_every_corner_that_may_be_declared_stays_bounded(write: float, momentum: float) -> None:
    rule = titans(largest_write=write, largest_momentum=momentum)
    assert rule.gates["write"].high == write
    assert rule.gates["momentum"].low < rule.gates["momentum"].init < rule.gates["momentum"].high == momentum
    assert largest_read(write, momentum) < 1e3


@pytest.mark.parametrize(("write", "momentum"), [(1.0, 0.99), (0.8, 0.9), (0.2, 0.99)])
def test_what_is_refused_diverges(write: float, momentum: float) -> None:
    with pytest.raises(CompositionError, match="may diverge; expected at most"):
        titans(largest_write=write, largest_momentum=momentum)
    assert largest_read(write, momentum) > 1e4


@pytest.mark.parametrize("options", [{"largest_write": 0.0}, {"largest_momentum": 1.0}, {"largest_momentum": 0.0}])
def test_a_range_that_is_none_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(CompositionError, match="expected above 0"):
        titans(**options)
