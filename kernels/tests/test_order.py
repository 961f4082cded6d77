"""Racecheck orders memory as CUDA does: barriers, __syncwarp and fences around atomics, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hecate_kernels import child
from hecate_kernels.failure import KernelError
from hecate_kernels.host import SCHEDULES, HostLauncher, ProgramLauncher
from hecate_kernels.pair import InOut, Kernel

SOURCE = Path(__file__).with_name("order.cu")


def _run(which: int, flavour: str, blocks: int = 1, schedules: tuple[str, ...] = SCHEDULES) -> list[float]:
    where = ProgramLauncher(flavour, schedules, child.Limits(20, 20, 4096 if flavour == "plain" else None))
    data, flags, out = torch.zeros(4096), torch.zeros(1, dtype=torch.int32), torch.zeros(128)
    arguments = [InOut(data), InOut(flags), InOut(out), np.int32(which)]
    where.launch(Kernel(SOURCE, "order"), (blocks, 1, 1), (64, 1, 1), arguments)
    return [float(data[0]), float(out[0])]


@pytest.mark.parametrize(
    ("which", "blocks"),
    [(0, 1), (10, 1), (20, 1), (22, 1), (30, 5), (40, 3)],
)
def test_what_cuda_orders_is_no_race(which: int, blocks: int) -> None:
    _run(which, "thread", blocks, ("ascending",))


@pytest.mark.parametrize(
    ("which", "blocks"),
    [
        pytest.param(1, 1, id="a shuffle orders no memory"),
        pytest.param(2, 1, id="nor does a vote"),
        pytest.param(3, 1, id="nor a __syncwarp of other lanes"),
        pytest.param(11, 1, id="the reader has no fence"),
        pytest.param(12, 1, id="the writer's fence comes before what it should order"),
        pytest.param(13, 1, id="the writer has no fence"),
        pytest.param(21, 1, id="a volatile flag is no fence"),
        pytest.param(23, 1, id="volatile on one side"),
        pytest.param(31, 5, id="a fence of the block reaches no other block"),
        pytest.param(32, 2, id="blocks that meet by a fence, but not these threads of theirs"),
    ],
)
def test_what_cuda_does_not_order_is_a_race(which: int, blocks: int) -> None:
    with pytest.raises(KernelError, match=r"order\.cu:\d+: data race with line \d+"):
        _run(which, "thread", blocks, ("ascending",))


def test_a_race_with_a_volatile_access_names_its_line() -> None:
    lines = SOURCE.read_text().splitlines()
    there = next(number for number, line in enumerate(lines, 1) if "// the volatile side" in line)
    with pytest.raises(KernelError, match=rf"order\.cu:(?:{there}: data race|\d+: data race with line {there}$)"):
        _run(23, "thread", schedules=("ascending",))


def test_a_loop_that_waits_by_an_atomic_lets_others_go_on_in_every_order() -> None:
    assert _run(10, "plain") == [5.0, 5.0]
    assert _run(20, "plain") == [5.0, 5.0]
    assert _run(30, "plain", blocks=5)[1] == 10.0
    assert _run(40, "plain", blocks=3)[0] == 192.0


def test_a_loop_that_waits_for_a_later_block_is_one_line_and_no_hang() -> None:
    there = next(n for n, line in enumerate(SOURCE.read_text().splitlines(), 1) if "// for ever" in line)
    data, flags, out = torch.zeros(4096), torch.zeros(1, dtype=torch.int32), torch.zeros(128)
    arguments = [InOut(data), InOut(flags), InOut(out), np.int32(50)]
    for schedule in ("ascending", "greedy-up"):
        with pytest.raises(KernelError, match=rf"order\.cu:{there}: thread 40 waits for what no thread of its block"):
            HostLauncher(schedule).launch(Kernel(SOURCE, "order"), (2, 1, 1), (64, 1, 1), arguments)
