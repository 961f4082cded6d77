"""What CUDA does not forgive and a schedule does not show: named with its place, by the check that can see it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hecate_kernels import child
from hecate_kernels.failure import KernelError
from hecate_kernels.host import HostLauncher, ProgramLauncher
from hecate_kernels.pair import Dim3, InOut, Kernel

SOURCE = Path(__file__).with_name("offences.cu")
OFFENCES = [  # number, the check that finds it, the mark of its line, the message
    (0, "thread", "overwrites what others read", "data race"),
    (1, "thread", "no barrier after the wait", "data race"),
    (2, "plain", "written in flight", "the target of cp.async is written before its wait (thread 0)"),
    (3, "plain", "source written in flight", "the source of cp.async is written before its wait (thread 0)"),
    (4, "plain", "into global memory", "cp.async writes 16 bytes that are in no shared array (thread 0)"),
    (5, "plain", "copy misaligned", "cp.async of 16 bytes needs both addresses aligned to 16 (thread 0)"),
    (6, "address", "load misaligned", "address for type 'const struct Four', which requires 16 byte alignment"),
    (7, "address", "store misaligned", "misaligned address for type 'struct Four', which requires 16 byte alignment"),
    (8, "plain", "rows misaligned", "ldmatrix needs rows aligned to 16 bytes (thread 1)"),
    (9, "plain", "rows in global memory", "ldmatrix reads 16 bytes that are in no shared array (thread 0)"),
    (10, "plain", "again, float, helped", '"helped" (bytes 0 to 64) overlaps "own" (bytes 0 to 256, line '),
    (11, "plain", "in both branches", '"right" (bytes 0 to 128) overlaps "left" (bytes 0 to 256, line '),
    (12, "thread", "the same place", "data race"),
    (13, "plain", "too much static", '"large" ends at byte 51200 of static shared memory, of which CUDA gives 49152'),
    (15, "plain", "// trapped", "__trap() was reached (thread 0)"),
]  # fmt: skip


def _line(mark: str) -> int:
    return next(number for number, line in enumerate(SOURCE.read_text().splitlines(), 1) if mark in line)


def _commit(offence: int, flavour: str, out: torch.Tensor | None = None) -> None:
    where = ProgramLauncher(flavour, ("ascending",), child.Limits(memory_mib=4096 if flavour == "plain" else None))
    arguments = [torch.arange(64.0), InOut(torch.zeros(128) if out is None else out), np.int32(offence)]
    where.launch(Kernel(SOURCE, "offend"), (1, 1, 1), (64, 1, 1), arguments, 1024)


@pytest.mark.parametrize("flavour", ["plain", "address", "thread"])
def test_none_of_them_is_no_report(flavour: str) -> None:
    _commit(-1, flavour)


@pytest.mark.parametrize(("offence", "flavour", "mark", "message"), OFFENCES)
def test_every_offence_is_found_at_its_line(offence: int, flavour: str, mark: str, message: str) -> None:
    with pytest.raises(KernelError) as caught:
        _commit(offence, flavour)
    assert str(caught.value).startswith(f"{SOURCE}:{_line(mark)}: ")
    assert message in str(caught.value)


def test_a_view_begins_where_it_begins_on_a_gpu() -> None:
    _commit(14, "address", torch.zeros(130)[:128])
    with pytest.raises(KernelError, match=rf":{_line('output misaligned')}: .*misaligned address"):
        _commit(14, "address", torch.zeros(130)[2:])


def test_two_arenas_of_one_kernel_share_their_bytes_as_on_a_gpu() -> None:
    out = torch.zeros(128)
    arguments = [torch.arange(64.0), InOut(out), np.int32(16)]
    HostLauncher().launch(Kernel(SOURCE, "offend"), (1, 1, 1), (64, 1, 1), arguments, 1024)
    assert (out[:64] == 2).all()


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        ((1, 1, 1), (2048, 1, 1), 0, "wants a block of (2048, 1, 1)"),
        ((1, 1, 1), (32, 33, 1), 0, "wants 1056 threads per block; this kernel can run with 1024"),
        ((1, 1, 1), (1, 1, 65), 0, "wants a block of (1, 1, 65)"),
        ((1, 1, 1), (0, 1, 1), 0, "wants a block of (0, 1, 1); it has at least (1, 1, 1)"),
        ((1, 70_000, 1), (1, 1, 1), 0, "wants a grid of (1, 70000, 1); the largest is (2147483647, 65535, 65535)"),
        ((-1, 1, 1), (1, 1, 1), 0, "wants a grid of (-1, 1, 1)"),
        ((1 << 16, 1 << 15, 2), (1, 1, 1), 0, "wants 4294967296 blocks; the host runs at most 16777216"),
        ((1, 1, 1), (1, 1, 1), 300 << 10, "wants 307200 bytes of shared memory; this card gives 232448"),
        ((1, 1, 1), (1, 1, 1), -1, "wants -1 bytes of shared memory"),
    ],
)
@pytest.mark.parametrize("where", [HostLauncher(), ProgramLauncher()], ids=["host", "program"])
def test_launches_that_no_card_runs_are_refused(
    where: HostLauncher | ProgramLauncher, grid: Dim3, block: Dim3, shared: int, message: str
) -> None:
    with pytest.raises(KernelError) as caught:
        where.launch(Kernel(SOURCE, "offend"), grid, block, [], shared)
    assert str(caught.value).startswith(f"{SOURCE}:1: offend {message}")


def test_static_and_dynamic_shared_memory_are_one_budget() -> None:
    arguments = [torch.arange(64.0), InOut(torch.zeros(128)), np.int32(-1)]
    with pytest.raises(
        KernelError, match="1024 bytes of static and 232448 of dynamic shared memory; a block has at most"
    ):
        HostLauncher().launch(Kernel(SOURCE, "offend"), (1, 1, 1), (64, 1, 1), arguments, 227 << 10)
