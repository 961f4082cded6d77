"""The pair `newton_schulz` iterates as the reference does, and the net around it has no hole."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
import torch
from faults import Fault, assert_found, plant
from hecate_atlas import kernels
from hecate_atlas.kernels import NewtonSchulzKernels, NewtonSchulzOnHost
from hecate_atlas.newton_schulz import newton_schulz
from hecate_kernels.check import check_pair
from hecate_kernels.compare import differences
from hecate_kernels.failure import KernelError
from hecate_kernels.host import HostLauncher, ProgramLauncher
from hecate_kernels.pair import Trial

from hecate_core.api import InputError, MemoryRule
from hecate_core.composing import rule_of, strategy_of

# ruff: noqa: E501
SOURCE = NewtonSchulzOnHost().kernels.source
SMALL = "muon 3"  # three matrices of 7 x 40: padded rows and columns, two tiles


class OneTrial(NewtonSchulzKernels):
    """The pair with one small case: what a planted fault has to fail."""

    def __init__(self, source: Path) -> None:
        super().__init__("host", source)

    def trials(self, thorough: bool) -> Iterable[Trial]:  # type: ignore[override]
        return [trial for trial in super().trials(False) if trial.name.startswith(SMALL)]


FAULTS = [
    Fault("barrier missing before columns are copied", "+ value; });\n        __syncthreads();\n        for (int i", "+ value; });\n        for (int i"),
    Fault("barrier missing before columns are overwritten", "aside[i / tile * ld_t + i % tile];\n        __syncthreads();", "aside[i / tile * ld_t + i % tile];"),
    Fault("divergent barrier", "    bend(bent, gram, k);\n    __syncthreads();", "    bend(bent, gram, k);\n    if (threadIdx.x < 128) __syncthreads();"),
    Fault("write past shared memory", "HECATE_CARVE(arena, float, aside, V * ld_t);", "HECATE_CARVE(arena, float, aside, V * tile);"),
    Fault("wrong gradient sign", "sum.template add<V, turned, rows>(back", "sum.template add<V, rows, rows>(back"),
    Fault("stale state", "i + 1 < STEPS; ++i", "i + 2 < STEPS; ++i"),
    Fault("race between blocks", "space += (long long)blockIdx.x * workspace;", "", nth=1),
    Fault("forgotten norm", "to_float(matrix[i]) * along) / (norm", "to_float(matrix[i])) / (norm"),
]  # fmt: skip


@pytest.fixture
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks walk three matrices: a workspace is used again."""
    monkeypatch.setattr(kernels, "MOST_BLOCKS", 2)


def test_every_case_agrees_with_the_iteration_in_float64() -> None:
    pair = NewtonSchulzOnHost()
    for trial in pair.trials(False):
        for one in differences(trial, pair.kernels.tolerance[trial.dtype], HostLauncher()):
            assert one.good, one.line()


@pytest.mark.usefixtures("few_blocks")
def test_every_schedule_gives_the_same_bits() -> None:
    for trial in OneTrial(SOURCE).trials(False):
        trial.run(ProgramLauncher("plain"))


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("flavour", ["address", "thread"])
def test_sanitizers_have_nothing_to_report(flavour: str) -> None:
    for trial in OneTrial(SOURCE).trials(False):
        trial.run(ProgramLauncher(flavour, ("ascending",)))


@pytest.mark.soak
@pytest.mark.parametrize("check", ["numbers", "address", "race", "compile"])
def test_the_full_product_passes(check: str) -> None:
    for line in check_pair("newton_schulz", NewtonSchulzOnHost(), thorough=True, checks=(check,)):
        assert line.good, line


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_faults_are_found(fault: Fault, tmp_path: Path) -> None:
    assert_found(OneTrial(plant(fault, SOURCE, SOURCE, tmp_path)))


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


@pytest.mark.parametrize("backward", [False, True])
def test_the_declared_shared_memory_is_what_the_kernels_carve(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = kernels.carved
    pair, matrix = NewtonSchulzOnHost(), torch.ones(1, 7, 40)
    monkeypatch.setattr(kernels, "carved", lambda *given: real(*given) - 128)
    with pytest.raises(KernelError, match="of dynamic shared memory; the launch gives"):
        _ = pair.backward(matrix, 3, "muon", matrix) if backward else pair.forward(matrix, 3, "muon")
