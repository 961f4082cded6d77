"""The range of the gates of Titans: what is declared stays bounded for keys in any order, what is refused does not."""

import pytest
import torch
import torch.nn.functional as F
from hecate_titans.titans import titans

from hecate_core import memory
from hecate_core.api import steady_write
from hecate_core.errors import CompositionError

COUNT, WIDTH = 4000, 16
ANGLES = (0.03, 0.1, 0.2, 0.3, 0.5, 1.0)


def keys() -> torch.Tensor:
    """Random unit keys, one key throughout, eight in turn, and keys that turn at every angle; one row each."""
    random = torch.Generator().manual_seed(0)
    base, _ = torch.linalg.qr(torch.randn(WIDTH, 8, generator=random))
    token = torch.arange(COUNT)
    rows = [F.normalize(torch.randn(COUNT, WIDTH, generator=random), dim=-1), base.T[token * 0], base.T[token % 8]]
    for angle in ANGLES:
        turned = (angle * token).unsqueeze(-1)
        rows.append(turned.cos() * base.T[0] + turned.sin() * base.T[1])
    return torch.stack(rows).unsqueeze(1)


def largest_read(write: float, momentum: float, rows: int | None = None) -> float:
    """Over the first rows of keys (None: all), almost nothing forgotten."""
    k = keys()[:rows]
    v = torch.randn(1, 1, COUNT, WIDTH, generator=torch.Generator().manual_seed(1)).expand(len(k), -1, -1, -1)
    given = {"write": write, "momentum": momentum, "retain": 0.9999}
    gates = {name: torch.full((len(k), 1, COUNT), value) for name, value in given.items()}
    y, _ = memory(k, k, v, rule="titans", gates=gates)
    return float(y.abs().nan_to_num(nan=float("inf")).max())


@pytest.mark.parametrize(("write", "momentum"), [(0.2, 0.6), (0.04, 0.8), (1 / 3, 0.5), (0.0105, 0.9)])
def test_every_corner_that_may_be_declared_stays_bounded(write: float, momentum: float) -> None:
    rule = titans(largest_write=write, largest_momentum=momentum)
    assert rule.gates["write"].high == write
    assert rule.gates["momentum"].low < rule.gates["momentum"].init < rule.gates["momentum"].high == momentum
    assert largest_read(write, momentum) < 1e2


def test_longer_momenta_are_for_keys_without_order() -> None:
    """What is asked for by name: bounded on random keys, not on keys that turn."""
    gates = titans(largest_momentum=0.9, keys="unordered").gates
    assert (gates["write"].high, gates["momentum"].high, gates["momentum"].init) == pytest.approx((0.2, 0.9, 0.8))
    assert largest_read(0.2, 0.9, rows=3) < 1e3 < 1e4 < largest_read(0.2, 0.9)
    with pytest.raises(CompositionError, match=r"may diverge; expected at most 0\.2 for keys"):
        titans(largest_write=0.21, largest_momentum=0.9, keys="unordered")
    with pytest.raises(CompositionError, match='keys = "random"; expected "any"'):
        titans(keys="random")  # type: ignore[arg-type]


@pytest.mark.parametrize(("write", "momentum"), [(0.2, 0.9), (0.1, 0.8), (1.0, 0.5)])
def test_what_is_refused_diverges(write: float, momentum: float) -> None:
    with pytest.raises(CompositionError, match="may diverge; expected at most"):
        titans(largest_write=write, largest_momentum=momentum)
    assert largest_read(write, momentum) > 1e4


def test_the_defaults_lie_on_the_bound() -> None:
    gates = titans().gates
    assert gates["write"].high == pytest.approx(steady_write(gates["momentum"].high))


@pytest.mark.parametrize("options", [{"largest_write": 0.0}, {"largest_momentum": 1.0}, {"largest_momentum": 0.0}])
def test_a_range_that_is_none_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(CompositionError, match="expected above 0"):
        titans(**options)
