"""The pair `lattice` takes the rule's own steps, and the net around it has no hole."""

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
from hecate_lattice import kernels
from hecate_lattice.kernels import LatticeKernels, LatticeOnHost
from hecate_lattice.op import LatticeTokens

from hecate_core.api import InputError

# ruff: noqa: E501
SOURCE = LatticeOnHost().kernels.source
SMALL = "decode, T 63, 6 slots"  # two chunks, two heads, two warps, padded slots, retain, resting tokens


class OneTrial(LatticeKernels):
    """The pair with one small case: what a planted fault has to fail."""

    def __init__(self, source: Path) -> None:
        super().__init__("host", source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        return [trial for trial in super().trials(False) if trial.name.startswith(SMALL)]


FAULTS = [
    Fault("barrier missing after the loads", "        load_texts(c, q, k, v, q_token, k_token, v_token, write + text, retain + text, due + text, first, length);\n        __syncthreads();",
          "        load_texts(c, q, k, v, q_token, k_token, v_token, write + text, retain + text, due + text, first, length);"),
    Fault("barrier missing before the sums are read", "            __syncthreads();\n            if (warp_of() == t % warps)", "            if (warp_of() == t % warps)"),
    Fault("sums overwritten while they are read", "answers + (flip ^= 1) * warps * wide", "answers + 0 * flip"),
    Fault("divergent barrier", "            if (RETAIN) share_number(sums + warps, by_slot);\n            __syncthreads();",
          "            if (RETAIN) share_number(sums + warps, by_slot);\n            if (threadIdx.x < 32) __syncthreads();"),
    Fault("write past shared memory", "share_answer(answers + (2 + (t + 1) % 2)", "share_answer(answers + (3 + (t + 1) % 2)"),
    Fault("wrong gradient sign", "if (decode) d_key -=", "if (decode) d_key +="),
    Fault("stale state", "        if (n) {\n            load_held", "        if (n > 1) {\n            load_held"),
    Fault("forgotten retraction", "floor_of_length ? outward : 0.0f", "floor_of_length ? 0.0f : 0.0f"),
    Fault("race between blocks", "d_write[token] = shared_number", "d_write[first + t] = shared_number"),
    Fault("write past an output", "if (is_keeper()) dk[token * SLOTS + kept_slot()] = from_float<E>(d_key)",
          "if (lane_of() % keepers == 0) dk[token * SLOTS + kept_slot()] = from_float<E>(d_key)"),
]  # fmt: skip


def test_every_case_agrees_with_the_steps_in_float64() -> None:
    pair = LatticeOnHost()
    for trial in pair.trials(False):
        for one in differences(trial, pair.kernels.tolerance[trial.dtype], HostLauncher()):
            assert one.good, one.line()


def test_every_schedule_gives_the_same_bits() -> None:
    for trial in OneTrial(SOURCE).trials(False):
        trial.run(ProgramLauncher("plain"))


@pytest.mark.parametrize("flavour", ["address", "thread"])
def test_sanitizers_have_nothing_to_report(flavour: str) -> None:
    for trial in OneTrial(SOURCE).trials(False):
        trial.run(ProgramLauncher(flavour, ("ascending",)))


@pytest.mark.soak
@pytest.mark.parametrize("check", ["numbers", "address", "race", "compile"])
def test_the_full_product_passes(check: str) -> None:
    for line in check_pair("lattice", LatticeOnHost(), thorough=True, checks=(check,)):
        assert line.good, line


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_faults_are_found(fault: Fault, tmp_path: Path) -> None:
    assert_found(OneTrial(plant(fault, SOURCE, SOURCE, tmp_path)))


def _tokens(length: int, slots: int = 6, width: int = 16, dtype: torch.dtype = torch.float32) -> LatticeTokens:
    random = torch.Generator().manual_seed(length)
    q, k = torch.randn(2, 1, 2, length, slots, generator=random).to(dtype)
    v = torch.randn(1, 2, length, width, generator=random).to(dtype)
    return LatticeTokens(q, k, v, torch.rand(1, 2, length, generator=random), None, None)


def test_token_by_token_is_one_call() -> None:
    pair, tokens = LatticeOnHost(), _tokens(5)
    slots = torch.nn.functional.normalize(torch.ones(1, 2, 16, 6), dim=-2)
    y, end, _ = pair.forward(tokens, slots, "decode")
    reads = []
    for t in range(5):
        one = LatticeTokens._make(None if part is None else part[:, :, t : t + 1] for part in tokens)
        read, slots, _ = pair.forward(one, slots, "decode")
        reads.append(read)
    assert torch.allclose(torch.cat(reads, 2), y, atol=1e-6)
    assert torch.allclose(slots, end, atol=1e-6)


def test_tokens_at_rest_leave_the_slots_bit_for_bit() -> None:
    tokens = _tokens(5)._replace(due=torch.zeros(1, 2, 5, dtype=torch.bool))
    slots = torch.randn(1, 2, 16, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(LatticeOnHost().forward(tokens, slots, "decode")[1], slots)


def test_slots_that_no_block_holds_are_refused_with_what_would_do() -> None:
    tokens = _tokens(1, 200, 200)
    with pytest.raises(InputError, match="200 slots of 200 entries; its kernels hold up to 128 x 128 or 256 x 64"):
        LatticeOnHost().forward(tokens, torch.zeros(1, 2, 200, 200), "decode")


@pytest.mark.parametrize("backward", [False, True])
def test_the_declared_shared_memory_is_what_the_kernels_carve(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = kernels.carved_slots
    pair, tokens, slots = LatticeOnHost(), _tokens(3), torch.ones(1, 2, 16, 6)
    *_, saved = pair.forward(tokens, slots, "decode")
    monkeypatch.setattr(kernels, "carved_slots", lambda floats: real(floats) - 128)
    with pytest.raises(KernelError, match="of dynamic shared memory; the launch gives"):
        _ = (
            pair.backward(tokens, saved, "decode", tokens.v, slots)
            if backward
            else pair.forward(tokens, slots, "decode")
        )
