"""The pair `decayed_linear` computes its defining sums, and the net around it has no hole."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from faults import Fault, assert_found, plant
from hecate_kernels import decayed_linear
from hecate_kernels.check import check_pair
from hecate_kernels.compare import differences
from hecate_kernels.decayed_linear import DecayedKernels, DecayedOnHost
from hecate_kernels.failure import KernelError
from hecate_kernels.host import HostLauncher, ProgramLauncher
from hecate_kernels.pair import Trial

from hecate_core.api import Decays, Reads
from hecate_core.ops.decayed_linear import REFERENCE

# ruff: noqa: E501
SOURCE = DecayedOnHost().kernels.source


class OneTrial(DecayedKernels):
    """The pair with one small case: what a planted fault has to fail."""

    def __init__(self, source: Path) -> None:
        super().__init__("host", source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        return [trial for trial in super().trials(False) if trial.name.startswith("momentum, chunk 31")]


class OneToken(DecayedKernels):
    """The pair with a chunk of one token: the kernel that decodes."""

    def __init__(self, source: Path) -> None:
        super().__init__("host", source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        return [trial for trial in super().trials(False) if trial.name.startswith("momentum, chunk 1,")]


STEP = [
    Fault("old momentum forgotten", "for (int l = 0; l < PARTS; ++l) wrote +=", "for (int l = 0; l < 1; ++l) wrote +="),
    Fault("every lane writes", "if (lane == 0)", "if (lane >= 0)"),
    Fault("lanes leave before the sum", "if (at >= HEAD_K) continue;", "if (at >= HEAD_K) return;"),
    Fault("reach of another head", "reach[g] * score", "reach[0] * score"),
]
FAULTS = [
    Fault("barrier missing after the loads", "    __syncthreads();\n    for (int j = 0; j < PARTS; ++j) scale_rows(shared_out",
          "    for (int j = 0; j < PARTS; ++j) scale_rows(shared_out"),
    Fault("barrier missing before the overwrite", "                 });\n    __syncthreads();\n    for (int j = 0; j < PARTS; ++j)\n"
          "        compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(queries",
          "                 });\n    for (int j = 0; j < PARTS; ++j)\n"
          "        compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(queries"),
    Fault("divergent barrier", "        sum = block_sum(sum, warps);", "        if (threadIdx.x < 128) sum = block_sum(sum, warps);"),
    Fault("write past shared memory", "        to[at] = from_float<E>(to_float(from[at]) * shares",
          "        to[at + ld_r] = from_float<E>(to_float(from[at]) * shares"),
    Fault("wrong gradient sign", "value += carry[i * PARTS + j] * d_end", "value -= carry[i * PARTS + j] * d_end"),
    Fault("stale state", "for (int i = 0; i < PARTS; ++i) wrote +=", "for (int i = 0; i < 1; ++i) wrote +="),
    Fault("race between blocks", "dq[(part + t) * HEAD_K + c]", "dq[t * HEAD_K + c]"),
    Fault("write past an output", "if (t < count) d_ends", "d_ends"),
]  # fmt: skip


def test_every_case_agrees_with_the_sums_in_float64() -> None:
    pair = DecayedOnHost()
    for trial in pair.trials(False):
        for one in differences(trial, pair.kernels.tolerance[trial.dtype], HostLauncher()):
            assert one.good, one.line()


def test_every_schedule_gives_the_same_bits() -> None:
    for trial in OneTrial(SOURCE).trials(False):
        trial.run(ProgramLauncher("plain"))


@pytest.mark.parametrize("flavour", ["address", "thread"])
def test_sanitizers_have_nothing_to_report(flavour: str) -> None:
    for trial in DecayedOnHost().trials(False):
        if trial.quick and ("chunk 31" in trial.name or "chunk 7" in trial.name):
            trial.run(ProgramLauncher(flavour, ("ascending",)))


@pytest.mark.soak
@pytest.mark.parametrize("check", ["numbers", "address", "race", "compile"])
def test_the_full_product_passes(check: str) -> None:
    for line in check_pair("decayed_linear", DecayedOnHost(), thorough=True, checks=(check,)):
        assert line.good, line


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_faults_are_found(fault: Fault, tmp_path: Path) -> None:
    assert_found(OneTrial(plant(fault, SOURCE, SOURCE, tmp_path)))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parts", [1, 2])
def test_the_declared_shared_memory_is_what_the_kernels_carve(
    backward: bool, dtype: torch.dtype, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = decayed_linear.shared_bytes
    reads = Reads(*torch.zeros(3, 1, 1, 3, 16, dtype=dtype))
    shapes = [(3, 3), (3, parts), (3, parts), (parts, parts)]
    decays = Decays._make(torch.zeros(1, 1, *shape) for shape in shapes)
    stored, pair = torch.zeros(1, 1, parts, 16, 16), DecayedOnHost()
    *_, saved = pair.forward(reads, stored, decays)

    def too_little(*given: object, backward: bool) -> int:
        return real(*given, backward=backward) - 128  # type: ignore[arg-type]

    monkeypatch.setattr(decayed_linear, "shared_bytes", too_little)
    with pytest.raises(KernelError, match="of dynamic shared memory; the launch gives"):
        _ = pair.backward(saved, reads.u, stored) if backward else pair.forward(reads, stored, decays)


@pytest.mark.parametrize("count", [0, 2])
def test_fewer_reads_than_updates_are_read_after_the_last_of_each_group(count: int) -> None:
    random = torch.Generator().manual_seed(count)
    q, u, x = (torch.randn(1, 2, rows, 16, generator=random) for rows in (count, 4, 4))
    reach = torch.rand(1, 2, 4, 4, generator=random).tril()[:, :, 1::2][:, :, :count]
    shares = [torch.rand(1, 2, *shape, generator=random) for shape in ((count, 1), (4, 1), (1, 1))]
    stored, d_y, d_end = (
        torch.randn(1, 2, *shape, generator=random) for shape in ((1, 16, 16), (count, 16), (1, 16, 16))
    )
    found = []
    for pair in (DecayedOnHost(), REFERENCE):
        y, end, saved = pair.forward(Reads(q, u, x), stored, Decays(reach, *shares))
        reads, d_stored, decays = pair.backward(saved, d_y, d_end)
        d_reach = torch.where(reach > 0.0, decays.reach, 0.0)  # what comes later is no question
        found.append((y, end, *reads, d_stored, d_reach, *decays[1:]))
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("fault", STEP, ids=lambda fault: fault.name)
def test_faults_planted_in_the_single_token_are_found(fault: Fault, tmp_path: Path) -> None:
    assert_found(OneToken(plant(fault, SOURCE.with_name("decayed_step.cuh"), SOURCE, tmp_path)))
