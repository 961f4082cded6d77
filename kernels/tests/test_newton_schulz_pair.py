"""The pair `newton_schulz`: its workspace, its layers, what it cannot take."""

from functools import partial

import pytest
import torch
from hecate_atlas.kernels import NewtonSchulzOnHost
from hecate_atlas.newton_schulz import newton_schulz
from hecate_kernels.host import HostLauncher

from hecate_core.api import InputError, MemoryRule
from hecate_core.composing import rule_of, strategy_of


def test_workspace_in_global_memory_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = NewtonSchulzOnHost()
    matrix = torch.randn(3, 7, 40, generator=torch.Generator().manual_seed(0))
    run = partial(pair.forward, matrix, 3, "muon"), partial(pair.backward, matrix, 3, "muon", matrix)
    expected = [one() for one in run]
    monkeypatch.setattr(HostLauncher, "shared_limit", lambda self, like: 4096)
    assert all(torch.equal(one(), before) for one, before in zip(run, expected, strict=True))


def test_frozen_atlas_takes_its_steps_on_kernels() -> None:
    rule: MemoryRule = rule_of({"name": "atlas", "window": 2, "features": "identity"})
    spread = strategy_of("frozen", rule, chunk=4, backend="host")
    assert getattr(spread, "step_pair").backend == "host"  # noqa: B009
    tall = torch.randn(2, 1, 24, 16, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(newton_schulz(tall, pair=NewtonSchulzOnHost()), newton_schulz(tall), atol=1e-4)


def test_what_the_kernels_cannot_take_is_refused_with_what_would_do() -> None:
    with pytest.raises(InputError, match="a matrix is float64; its kernels take float32 or bfloat16"):
        NewtonSchulzOnHost().forward(torch.zeros(1, 4, 4, dtype=torch.float64), 5, "muon")
    with pytest.raises(InputError, match="a matrix of 300 x 300; its kernels square up to 256 rows"):
        NewtonSchulzOnHost().forward(torch.zeros(1, 300, 300), 5, "muon")
