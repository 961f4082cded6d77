"""The pair `affine` computes what the recurrence says, and nothing of the net around it has a hole."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
import torch
from faults import Fault, assert_found, plant
from hecate_kernels.affine import AffineKernels, AffineOnHost
from hecate_kernels.affine_layout import shared_bytes
from hecate_kernels.check import check_pair
from hecate_kernels.compare import differences
from hecate_kernels.failure import KernelError
from hecate_kernels.host import HostLauncher, ProgramLauncher
from hecate_kernels.pair import Trial

from hecate_core.api import AffineTokens, InputError

SOURCE = AffineOnHost().kernels.source
BACKWARD_SOURCE = SOURCE.with_name("affine_backward.cuh")


class OneTrial(AffineKernels):
    """The pair with one small case over two chunks: what a planted fault has to fail."""

    def __init__(self, source: Path) -> None:
        super().__init__("host", source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        return [trial for trial in super().trials(False) if trial.name.startswith("titans, T 63, head 16")]


class OneToken(AffineKernels):
    """The pair with one case of a single token: the kernel that decodes."""

    def __init__(self, source: Path) -> None:
        super().__init__("host", source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        return [trial for trial in super().trials(False) if trial.name.startswith("masked titans, T 1,")]


FORWARD = [
    Fault("barrier missing after the loads", "c, keep + text, erase + text, write + text, momentum + text, inject + "
          "text, first, length);\n        __syncthreads();", "c, keep + text, erase + text, write + text, momentum + "
          "text, inject + text, first, length);"),
    Fault("barrier missing before the next chunk overwrites",
          "s[at] = c.h0[C] * s[at] + wrote;\n                             });\n        __syncthreads();",
          "s[at] = c.h0[C] * s[at] + wrote;\n                             });"),
    Fault("divergent barrier", "        find_reach(c, reach, held);\n        __syncthreads();",
          "        find_reach(c, reach, held);\n        if (threadIdx.x < 128) __syncthreads();"),
    Fault("write past shared memory", "values[t * ld_r + r] = from_float", "values[(t + 1) * ld_r + r] = from_float"),
    Fault("stale state", "m[at] = c.b[C] * m[at]", "m[at] = c.b[C - 1] * m[at]"),
    Fault("race between blocks", "y[(text + first + t) * HEAD_V", "y[(first + t) * HEAD_V"),
    Fault("read past an input", "k_token, first, length);", "k_token, first, length + 64);"),
]  # fmt: skip
STEP = [
    Fault("old momentum forgotten", "s += momentum[blockIdx.y] * surprise", "s += surprise"),
    Fault("row of another", "if (row >= HEAD_V) return;", "if (row > HEAD_V) return;"),
    Fault("lanes leave before the sum", "if (x >= HEAD_K) continue;", "if (x >= HEAD_K) return;"),
    Fault("read before the write", "read += m[j] *", "read += key[j] *"),
]
BACKWARD = [
    Fault("wrong gradient sign", "seen ? -x * kk", "seen ? x * kk"),
    Fault("barrier missing before the adjoint", "d.by_h0[C] = end_h0;\n        }\n        __syncthreads();",
          "d.by_h0[C] = end_h0;\n        }"),
    Fault("operands overwritten while they are read", "if (!narrow) __syncthreads();", ""),
    Fault("stale adjoint", "dm[at] = c.b[C] * dm[at] + sum;", "dm[at] = c.b[C] * dm[at];"),
    Fault("forgotten term", "if (t) d.by_b[t] -=", "if (t) d.by_b[t] +="),
    Fault("race between blocks", "dq[(part + first + t)", "dq[(first + t)"),
    Fault("write past an output", "d_surprise[at] = ds", "d_surprise[at + HEAD_V * HEAD_K] = ds"),
]  # fmt: skip


@pytest.mark.parametrize("fault", [FORWARD[5], BACKWARD[5]])
def test_racecheck_alone_sees_blocks_race(fault: Fault, tmp_path: Path) -> None:
    file = SOURCE if fault in FORWARD else BACKWARD_SOURCE
    assert "data race" in assert_found(OneTrial(plant(fault, file, SOURCE, tmp_path)), ("race",))


def test_every_case_agrees_with_the_recurrence_in_float64() -> None:
    pair = AffineOnHost()
    where = HostLauncher()
    for trial in pair.trials(False):
        for one in differences(trial, pair.kernels.tolerance[trial.dtype], where):
            assert one.good, one.line()


def test_every_schedule_gives_the_same_bits() -> None:
    for trial in OneTrial(SOURCE).trials(False):
        trial.run(ProgramLauncher("plain"))


@pytest.mark.parametrize("flavour", ["address", "thread"])
def test_sanitizers_have_nothing_to_report(flavour: str) -> None:
    for trial in AffineOnHost().trials(False):
        if trial.quick and ("titans, T 63" in trial.name or "delta, T 64" in trial.name):
            trial.run(ProgramLauncher(flavour, ("ascending",)))


@pytest.mark.soak
@pytest.mark.parametrize("check", ["numbers", "address", "race", "compile"])
def test_the_full_product_passes(check: str) -> None:
    for line in check_pair("affine", AffineOnHost(), thorough=True, checks=(check,)):
        assert line.good, line


@pytest.mark.parametrize("fault", FORWARD, ids=lambda fault: fault.name)
def test_faults_planted_in_the_forward_are_found(fault: Fault, tmp_path: Path) -> None:
    assert_found(OneTrial(plant(fault, SOURCE, SOURCE, tmp_path)))


@pytest.mark.parametrize("fault", BACKWARD, ids=lambda fault: fault.name)
def test_faults_planted_in_the_backward_are_found(fault: Fault, tmp_path: Path) -> None:
    assert_found(OneTrial(plant(fault, BACKWARD_SOURCE, SOURCE, tmp_path)))


@pytest.mark.parametrize("fault", STEP, ids=lambda fault: fault.name)
def test_faults_planted_in_the_single_token_are_found(fault: Fault, tmp_path: Path) -> None:
    assert_found(OneToken(plant(fault, SOURCE.with_name("affine_step.cuh"), SOURCE, tmp_path)))


def test_token_by_token_is_one_call() -> None:
    pair, tokens = AffineOnHost(), _tokens(5)._replace(momentum=_tokens(5).write)
    memory, surprise = torch.zeros(2, 2, 1, 16, 16)
    y, end, surprise_end, _ = pair.forward(tokens, memory, surprise, 64)
    reads = []
    for t in range(5):
        one = AffineTokens._make(None if part is None else part[:, :, t : t + 1] for part in tokens)
        read, memory, surprise, _ = pair.forward(one, memory, surprise, 64)
        reads.append(read)
    assert torch.allclose(torch.cat(reads, 2), y, atol=1e-6)
    assert torch.allclose(memory, end, atol=1e-6)
    assert surprise is not None
    assert surprise_end is not None
    assert torch.allclose(surprise, surprise_end, atol=1e-6)


def _tokens(length: int, width: int = 16, dtype: torch.dtype = torch.float32) -> AffineTokens:
    generator = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, 2, 1, length, width, generator=generator).to(dtype)
    gates = torch.rand(3, 2, 1, length, generator=generator)
    return AffineTokens(q, torch.nn.functional.normalize(k, dim=-1), v, gates[0], gates[1], gates[1], None, None)


def test_two_calls_with_carried_state_are_one_call() -> None:
    pair, tokens = AffineOnHost(), _tokens(75)
    memory = torch.zeros(2, 1, 16, 16)
    y, end, _, _ = pair.forward(tokens, memory, None, 64)
    parts = [AffineTokens._make(None if one is None else one[:, :, cut] for one in tokens)
             for cut in (slice(0, 41), slice(41, 75))]  # fmt: skip
    first, middle, _, _ = pair.forward(parts[0], memory, None, 64)
    second, last, _, _ = pair.forward(parts[1], middle, None, 64)
    assert torch.allclose(torch.cat((first, second), 2), y, atol=1e-6)
    assert torch.allclose(last, end, atol=1e-6)


def test_neutral_tokens_leave_the_memory_bit_for_bit() -> None:
    tokens = _tokens(40)
    still = torch.zeros_like(tokens.keep)
    tokens = tokens._replace(keep=still + 1, erase=still, write=still)
    memory = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(AffineOnHost().forward(tokens, memory, None, 64)[1], memory)


def test_other_dtypes_and_sizes_are_refused_with_what_would_do() -> None:
    memory = torch.zeros(2, 1, 16, 16)
    with pytest.raises(InputError, match="q, k, v are float64, float64, float64; its kernels take float32 or bfloat16"):
        AffineOnHost().forward(_tokens(3, dtype=torch.float64), memory, None, 64)
    with pytest.raises(InputError, match="head sizes 300 and 300; its kernels take up to 256"):
        AffineOnHost().forward(_tokens(3, width=300), memory, None, 64)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("has_momentum", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_declared_shared_memory_is_what_the_kernels_carve(
    backward: bool, has_momentum: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hecate_kernels import affine

    def too_little(*given: object, backward: bool) -> int:
        return shared_bytes(*given, backward=backward) - 128  # type: ignore[arg-type]

    tokens = _tokens(3, dtype=dtype)
    surprise = torch.zeros(2, 1, 16, 16) if has_momentum else None
    if has_momentum:
        tokens = tokens._replace(momentum=tokens.keep)
    pair, memory = AffineOnHost(), torch.zeros(2, 1, 16, 16)
    ends = (memory, surprise)
    *_, saved = pair.forward(tokens, memory, surprise, 64)
    launch: partial[object] = partial(pair.forward, tokens, memory, surprise, 64)
    if backward:
        launch = partial(pair.backward, tokens, saved, 64, torch.zeros_like(tokens.v), ends)
    launch()
    monkeypatch.setattr(affine, "shared_bytes", too_little)
    with pytest.raises(KernelError, match="of dynamic shared memory; the launch gives"):
        launch()
