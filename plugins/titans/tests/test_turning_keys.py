"""Keys that turn by one angle at every token: where momentum and writes grow together (rules/titans.md, Eq. 5)."""

import math

import pytest
import torch
from hecate_titans.titans import titans

from hecate_core import memory

COUNT = 2000


def largest_read(write: float, momentum: float, retain: float, angle: float) -> float:
    turned = angle * torch.arange(COUNT, dtype=torch.float64)
    k = torch.stack((turned.cos(), turned.sin()), -1).view(1, 1, COUNT, 2)
    v = torch.randn(1, 1, COUNT, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gates = {"write": write, "momentum": momentum, "retain": retain}
    y, _ = memory(k, k, v, rule="titans", gates={name: torch.full((1, 1, COUNT), one) for name, one in gates.items()})
    return float(y.abs().max())


@pytest.mark.parametrize("momentum", [0.5, 0.8, 0.9])
def test_below_the_bound_no_angle_grows_and_above_it_one_does(momentum: float) -> None:
    bound = 2.0 * (1.0 - momentum) ** 2 / (1.0 + momentum)
    angles = [math.pi * (i / 60) ** 2 for i in range(61)]  # slow turns more finely: a long momentum follows them
    assert max(largest_read(0.95 * bound, momentum, 1.0, one) for one in angles) < 60.0
    assert max(largest_read(3.0 * bound, momentum, 1.0, one) for one in angles) > 1e4


def test_the_ends_of_the_gates_grow_under_no_angle() -> None:
    gates = titans().gates
    ends = (gates["write"].high, gates["momentum"].high)
    assert max(largest_read(*ends, 0.9999, 0.01 * one) for one in range(0, 315, 5)) < 60.0
