"""The pair `trellis` writes and reads as the recurrence says, and the net around it has no hole."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from faults import Fault, assert_found, plant
from hecate_kernels.check import check_pair
from hecate_kernels.compare import differences
from hecate_kernels.failure import KernelError
from hecate_kernels.host import HostLauncher, ProgramLauncher
from hecate_kernels.pair import Trial
from hecate_trellis import kernels
from hecate_trellis.kernels import TrellisKernels, TrellisOnHost
from hecate_trellis.op import TrellisTokens, option_of

from hecate_core.api import InputError

# ruff: noqa: E501
SOURCE = TrellisOnHost().kernels.source
MAPS = SOURCE.with_name("slot_maps.cuh")
SMALL = "silu, entries, T 63"  # two chunks, two heads, two warps, padded slots, resting tokens
WHOLE = "ln-silu, slots, T 63"  # the same with a map over all slots


class OneTrial(TrellisKernels):
    """The pair with one small case: what a planted fault has to fail."""

    def __init__(self, source: Path, which: str = SMALL) -> None:
        super().__init__("host", source)
        self._which = which

    def trials(self, thorough: bool) -> Iterable[Trial]:
        return [trial for trial in super().trials(False) if trial.name.startswith(self._which)]


FAULTS = [
    Fault("barrier missing after the loads", "        stage(dy, answers, d_y, y_token, answered, first, length);\n        __syncthreads();",
          "        stage(dy, answers, d_y, y_token, answered, first, length);"),
    Fault("sums overwritten while they are read", "            float* const part = shares + t % 2 * warps * wide;", "            float* const part = shares;"),
    Fault("divergent barrier", "            __syncthreads();\n            if (warp_of() == t % warps)\n                for (int p = 0; p < deep; ++p) {",
          "            if (!rests || threadIdx.x < 32) __syncthreads();\n            if (warp_of() == t % warps)\n                for (int p = 0; p < deep; ++p) {"),
    Fault("write past shared memory", "*const sums = numbers + flip * 2 * warps;", "*const sums = numbers + (flip + 1) * 2 * warps;"),
    Fault("wrong gradient sign", "share_number(sums + warps, -u * by_u)", "share_number(sums + warps, u * by_u)"),
    Fault("stale state", "            if (!rests) {\n                load_held(s, at - threadIdx.x);", "            if (!rests) {"),
    Fault("race between blocks", "d_retain[token] = rests", "d_retain[first + t] = rests"),
]  # fmt: skip
OF_WHOLE_MAPS = [
    Fault("barrier missing before all slots are read", "        if (is_keeper()) all[kept_slot()] = z;\n        __syncthreads();", "        if (is_keeper()) all[kept_slot()] = z;"),
    Fault("padded slots in a mean", "X(there[i]) * h[i]; });", "h[i] + X(1.0f - there[i]); });"),
]  # fmt: skip


def test_every_case_agrees_with_the_recurrence_in_float64() -> None:
    pair = TrellisOnHost()
    for trial in pair.trials(False):
        for one in differences(trial, pair.kernels.tolerance[trial.dtype], HostLauncher()):
            assert one.good, one.line()


@pytest.mark.parametrize("which", [SMALL, WHOLE])
def test_every_schedule_gives_the_same_bits(which: str) -> None:
    for trial in OneTrial(SOURCE, which).trials(False):
        trial.run(ProgramLauncher("plain"))


@pytest.mark.parametrize("which", [SMALL, WHOLE])
@pytest.mark.parametrize("flavour", ["address", "thread"])
def test_sanitizers_have_nothing_to_report(flavour: str, which: str) -> None:
    for trial in OneTrial(SOURCE, which).trials(False):
        trial.run(ProgramLauncher(flavour, ("ascending",)))


@pytest.mark.soak
@pytest.mark.parametrize("check", ["numbers", "address", "race", "compile"])
def test_the_full_product_passes(check: str) -> None:
    for line in check_pair("trellis", TrellisOnHost(), thorough=True, checks=(check,)):
        assert line.good, line


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_faults_are_found(fault: Fault, tmp_path: Path) -> None:
    assert_found(OneTrial(plant(fault, SOURCE, SOURCE, tmp_path)))


@pytest.mark.parametrize("fault", OF_WHOLE_MAPS, ids=lambda fault: fault.name)
def test_faults_planted_around_whole_maps_are_found(fault: Fault, tmp_path: Path) -> None:
    file = SOURCE if "barrier" in fault.name else MAPS
    assert_found(OneTrial(plant(fault, file, SOURCE, tmp_path), WHOLE))


def _tokens(length: int, slots: int = 6, width: int = 16) -> TrellisTokens:
    random = torch.Generator().manual_seed(length)
    q, code = torch.randn(2, 1, 2, length, slots, generator=random)
    w = torch.nn.functional.normalize(torch.randn(1, 2, length, width, generator=random), dim=-1)
    retain, write = torch.rand(2, 1, 2, length, generator=random)
    return TrellisTokens(q, w, code, retain, 0.3 * write, None)


def test_token_by_token_is_one_call() -> None:
    pair, tokens, option = TrellisOnHost(), _tokens(5), option_of("silu", "entries")
    store = torch.randn(1, 2, 6, 16, generator=torch.Generator().manual_seed(0))
    y, end, _ = pair.forward(tokens, store, option)
    reads = []
    for t in range(5):
        one = TrellisTokens._make(None if part is None else part[:, :, t : t + 1] for part in tokens)
        read, store, _ = pair.forward(one, store, option)
        reads.append(read)
    assert torch.allclose(torch.cat(reads, 2), y, atol=1e-6)
    assert torch.allclose(store, end, atol=1e-6)


def test_tokens_at_rest_leave_the_store_bit_for_bit() -> None:
    tokens = _tokens(5)._replace(due=torch.zeros(1, 2, 5, dtype=torch.bool))
    store = torch.randn(1, 2, 6, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(TrellisOnHost().forward(tokens, store, option_of("silu", "entries"))[1], store)


def test_stores_that_no_block_holds_are_refused_with_what_would_do() -> None:
    with pytest.raises(InputError, match="200 slots of 200 entries; its kernels hold up to 128 x 128 or 256 x 64"):
        TrellisOnHost().forward(_tokens(1, 200, 200), torch.zeros(1, 2, 200, 200), option_of("silu", "entries"))


@pytest.mark.parametrize("backward", [False, True])
def test_the_declared_shared_memory_is_what_the_kernels_carve(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = kernels.carved_slots
    pair, tokens, store, option = TrellisOnHost(), _tokens(3), torch.ones(1, 2, 6, 16), option_of("silu", "entries")
    *_, saved = pair.forward(tokens, store, option)
    monkeypatch.setattr(kernels, "carved_slots", lambda floats: real(floats) - 128)
    with pytest.raises(KernelError, match="of dynamic shared memory; the launch gives"):
        _ = pair.backward(tokens, saved, option, tokens.w, store) if backward else pair.forward(tokens, store, option)
