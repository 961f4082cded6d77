"""The pair `affine_column` computes what the recurrence says, and the net around it has no hole."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from faults import Fault, assert_found, plant
from hecate_kernels import affine_column
from hecate_kernels.affine_column import ColumnKernels, ColumnOnHost
from hecate_kernels.check import check_pair
from hecate_kernels.compare import differences
from hecate_kernels.failure import KernelError
from hecate_kernels.host import HostLauncher, ProgramLauncher
from hecate_kernels.pair import Trial

from hecate_core.api import ColumnTokens

SOURCE = ColumnOnHost().kernels.source
CHUNK = SOURCE.with_name("column_chunk.cuh")


class OneTrial(ColumnKernels):
    """The pair with one small case over four chunks: what a planted fault has to fail."""

    def __init__(self, source: Path) -> None:
        super().__init__("host", source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        return [trial for trial in super().trials(False) if trial.name.startswith("kda, T 63, head 16")]


class OneToken(ColumnKernels):
    """The pair with one case of a single token: the kernel that decodes."""

    def __init__(self, source: Path) -> None:
        super().__init__("host", source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        return [trial for trial in super().trials(False) if trial.name.startswith("kda, T 1,")]


STEP = [
    Fault("decay forgotten", "keep[channel + x] * m[j]", "m[j]"),
    Fault("every lane writes", "if (lane == 0)", "if (lane >= 0)"),
    Fault("lanes leave before the sum", "if (x >= HEAD_K) continue;", "if (x >= HEAD_K) return;"),
    Fault("channel of another head", "(long long)blockIdx.y * HEAD_K;", "(long long)head * HEAD_V + 1;"),
]
# ruff: noqa: E501
FAULTS = [
    (SOURCE, Fault("barrier missing after the loads", "        __syncthreads();\n        find_views", "        find_views")),
    (SOURCE, Fault("barrier missing before the overwrite", "remains[x] * m[r * ld_f + x] + wrote; });\n        __syncthreads();",
                   "remains[x] * m[r * ld_f + x] + wrote; });")),
    (SOURCE, Fault("operand overwritten while it is read", "if (!narrow) __syncthreads();", "")),
    (SOURCE, Fault("divergent barrier", "        const E* const solve = ERASE ? as_operand(inverse, inverse_copy) : inverse_copy;"
                   "\n        __syncthreads();", "        const E* const solve = ERASE ? as_operand(inverse, inverse_copy) :"
                   " inverse_copy;\n        if (threadIdx.x % 64 < 32) __syncthreads();")),
    (SOURCE, Fault("write past shared memory", "u[t * ld_r + r] = from_float<E>(x);", "u[(t + 1) * ld_r + r] = from_float<E>(x);")),
    (SOURCE, Fault("stale state", "remains[x] * m[r * ld_f + x] + wrote", "m[r * ld_f + x] + wrote")),
    (SOURCE, Fault("wrong gradient sign", "d_right[t * ld_r + r] = from_float<E>(x);\n                                 pulled",
                   "d_right[t * ld_r + r] = from_float<E>(-x);\n                                 pulled")),
    (SOURCE, Fault("forgotten term", "carried += by_read[t * ld_f + x]", "carried -= by_read[t * ld_f + x]")),
    (SOURCE, Fault("race between blocks", "(part + first) * HEAD_K, length - first", "first * HEAD_K, length - first")),
    (SOURCE, Fault("write past an output", "if (t >= count) continue;", "if (t >= count + 1) continue;")),
    (CHUNK, Fault("decay of the wrong token", "carried[j] *= keep[t * ld_f + x];", "carried[j] *= keep[i * ld_f + x];")),
    (CHUNK, Fault("lanes out of step", "seen = warp_sum(seen);", "if (lane < 16) seen = warp_sum(seen);")),
]  # fmt: skip


def test_every_case_agrees_with_the_recurrence_in_float64() -> None:
    pair = ColumnOnHost()
    for trial in pair.trials(False):
        for one in differences(trial, pair.kernels.tolerance[trial.dtype], HostLauncher()):
            assert one.good, one.line()


def test_every_schedule_gives_the_same_bits() -> None:
    for trial in OneTrial(SOURCE).trials(False):
        trial.run(ProgramLauncher("plain"))


@pytest.mark.parametrize("flavour", ["address", "thread"])
def test_sanitizers_have_nothing_to_report(flavour: str) -> None:
    for trial in ColumnOnHost().trials(False):
        if trial.quick and ("T 63" in trial.name or "T 7" in trial.name):
            trial.run(ProgramLauncher(flavour, ("ascending",)))


@pytest.mark.soak
@pytest.mark.parametrize("check", ["numbers", "address", "race", "compile"])
def test_the_full_product_passes(check: str) -> None:
    for line in check_pair("affine_column", ColumnOnHost(), thorough=True, checks=(check,)):
        assert line.good, line


@pytest.mark.parametrize(("file", "fault"), FAULTS, ids=lambda one: getattr(one, "name", "").split("/")[-1])
def test_planted_faults_are_found(file: Path, fault: Fault, tmp_path: Path) -> None:
    assert_found(OneTrial(plant(fault, file, SOURCE, tmp_path)))


def test_equal_channels_are_the_scalar_rule() -> None:
    from hecate_kernels.affine import AffineOnHost

    from hecate_core.api import AffineTokens

    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 40, 16, generator=generator)
    keep, erase = torch.rand(2, 1, 2, 40, generator=generator)
    memory = torch.randn(1, 2, 16, 16, generator=generator)
    wide = [one.unsqueeze(-1).expand(1, 2, 40, 16) for one in (keep, erase)]
    column = ColumnOnHost().forward(ColumnTokens(q, k, v, *wide, erase), memory, 64)
    scalar = AffineOnHost().forward(AffineTokens(q, k, v, keep, erase, erase, None, None), memory, None, 64)
    assert torch.allclose(column[0], scalar[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_declared_shared_memory_is_what_the_kernels_carve(
    backward: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = affine_column.shared_bytes
    q, k, v = torch.zeros(3, 1, 1, 3, 16, dtype=dtype)
    tokens = ColumnTokens(q, k, v, torch.ones(1, 1, 3, 16), torch.ones(1, 1, 3, 16), torch.ones(1, 1, 3))
    memory, pair = torch.zeros(1, 1, 16, 16), ColumnOnHost()
    *_, saved = pair.forward(tokens, memory, 64)

    def too_little(*given: object, backward: bool) -> int:
        return real(*given, backward=backward) - 128  # type: ignore[arg-type]

    monkeypatch.setattr(affine_column, "shared_bytes", too_little)
    with pytest.raises(KernelError, match="of dynamic shared memory; the launch gives"):
        _ = pair.backward(tokens, saved, 64, v, memory) if backward else pair.forward(tokens, memory, 64)


@pytest.mark.parametrize("fault", STEP, ids=lambda fault: fault.name)
def test_faults_planted_in_the_single_token_are_found(fault: Fault, tmp_path: Path) -> None:
    assert_found(OneToken(plant(fault, SOURCE.with_name("column_step.cuh"), SOURCE, tmp_path)))
