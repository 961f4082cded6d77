"""Where a proof runs: a card with real clocks, or the CPU with the host backend and a clock that measures nothing."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import attrs
import torch
from hecate_kernels.launch import launcher
from hecate_kernels.pair import Argument, Dim3, InOut, Kernel, Launcher, Out
from hecate_kernels.storage import poison
from torch import Tensor

Call = Callable[[], object]


class Timing(NamedTuple):
    """Milliseconds: median, and the times that 20 and 80 of 100 calls stay below."""

    median: float
    fast: float
    slow: float


@attrs.frozen
class Stage:
    """The device, the backend of kernels on it, how calls are timed and captured, and when to end."""

    device: torch.device
    backend: str
    clock: Callable[[Call], Timing]
    capture: Callable[[Call], Call]  # a call recorded once; the result replays it
    wait: Call  # until the device has nothing left to do
    deadline_s: float  # by time.monotonic()
    small: bool = False  # sizes for a rehearsal

    @property
    def is_over(self) -> bool:
        """Whether the time is spent."""
        return time.monotonic() > self.deadline_s

    def launcher(self) -> Launcher:
        """The backend's launcher, for tensors that lie on the CPU."""
        return Moving(launcher(self.backend), self.device)


def on_card(minutes: float) -> Stage:
    """The current CUDA device, timed as public kernels are: Triton's do_bench, L2 flushed, quantiles 0.5, 0.2, 0.8."""

    def clock(call: Call) -> Timing:
        from triton.testing import do_bench

        return Timing(*do_bench(call, warmup=25, rep=100, quantiles=[0.5, 0.2, 0.8]))

    def capture(call: Call) -> Call:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    end = time.monotonic() + 60 * minutes
    return Stage(torch.device("cuda"), "nvrtc", clock, capture, torch.cuda.synchronize, end)


def rehearsal(minutes: float = 5) -> Stage:
    """Everything but the card: the kernels on the host backend, each call made once, every timing 1 ms."""

    def clock(call: Call) -> Timing:
        call()
        return Timing(1.0, 1.0, 1.0)

    end = time.monotonic() + 60 * minutes
    return Stage(torch.device("cpu"), "host", clock, lambda call: call, lambda: None, end, small=True)


class Moving:
    """Runs kernels on a device with arguments that lie elsewhere, as they lie: gaps of views included.

    Outputs are poisoned on the device, so that what a kernel does not write shows.
    """

    def __init__(self, inner: Launcher, device: torch.device) -> None:
        self.name = inner.name
        self._inner, self._device = inner, device

    def shared_limit(self, like: Tensor) -> int:
        """What the device gives one block."""
        return self._inner.shared_limit(torch.empty(0, device=self._device))

    def launch(self, kernel: Kernel, grid: Dim3, block: Dim3, arguments: list[Argument], shared_bytes: int = 0) -> None:
        """See `Launcher.launch`."""
        moved: list[Argument] = []
        back: list[tuple[Tensor, Tensor]] = []
        for one in arguments:
            if isinstance(one, Tensor):
                moved.append(self._there(one))
            elif isinstance(one, (Out, InOut)):
                there = self._there(one.tensor)
                if isinstance(one, Out):
                    poison(there)
                back.append((one.tensor, there))
                moved.append(type(one)(there))
            else:
                moved.append(one)
        self._inner.launch(kernel, grid, block, moved, shared_bytes)
        for here, there in back:
            _line(here).copy_(_line(there))

    def _there(self, one: Tensor) -> Tensor:
        line = _line(one).to(self._device, copy=True)
        return line.as_strided(one.shape, one.stride())


def _line(one: Tensor) -> Tensor:
    """All elements from the first to the last, gaps included."""
    if one.numel() == 0:
        return one.flatten()
    last = sum((size - 1) * stride for size, stride in zip(one.shape, one.stride(), strict=True))
    return one.as_strided((last + 1,), (1,))


RESULTS = Path(__file__).parent.parent / "results"
