"""The host backend: the same `.cu`, run on the CPU on fibers, in this process or as a program of its own."""

import contextlib
import ctypes
import re
import resource
import struct
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hecate_core.api import is_shaping
from hecate_kernels import child
from hecate_kernels.cache import workspace
from hecate_kernels.cpu_build import build
from hecate_kernels.failure import BackendMissingError, KernelError, sanitizer_line
from hecate_kernels.launch import demand_launchable
from hecate_kernels.pair import SHARED_LIMITS, Argument, Dim3, InOut, Kernel, Out
from hecate_kernels.storage import WidthError, behind_alignment, poison, scalar_bytes, span

SCHEDULES = ("ascending", "descending", "random-1", "random-2", "greedy-up", "greedy-random")
"""Orders in which runnable threads go on; greedy ones let a warp run to its next barrier first."""

SHARED_LIMIT = max(SHARED_LIMITS.values())
THREADS_LIMIT = 1024
BLOCKS_LIMIT = 1 << 24  # of one launch here, where they run one after the other
MOST_BLOCKS = 3  # they run one after the other; so few have to use their memory again, and meet at any stride

_ADDRESS_OPTIONS = "detect_leaks=0:exitcode=23:detect_stack_use_after_return=0:hard_rss_limit_mb=4096"
_THREAD_OPTIONS = "exitcode=24:halt_on_error=1:report_thread_leaks=0:history_size=4:memory_limit_mb=4096"

_TOLD = (2, 3, 4, 23, 24)  # statuses of the runner and of sanitizers, whose last line says what was wrong
_PLACED = re.compile(r".+:\d+: ")
_RETURNS = "; a kernel returns, it does not exit"


_CHECKED: ContextVar[Path | None] = ContextVar("checked", default=None)


@contextlib.contextmanager
def only_in_children(source: Path) -> Iterator[None]:
    """No kernel of `source` runs in this process during the block: it is being checked, and may do anything."""
    token = _CHECKED.set(source)
    try:
        yield
    finally:
        _CHECKED.reset(token)


class HostLauncher:
    """Runs kernels in this process; for sources that have passed `hecate kernels check`."""

    name = "host"
    most_blocks = MOST_BLOCKS

    def __init__(self, schedule: str = "ascending") -> None:
        self._schedule = SCHEDULES.index(schedule)
        self._kernels: dict[Kernel, tuple[Any, ctypes.c_void_p]] = {}

    def shared_limit(self, like: Tensor) -> int:
        """As much as the newest cards."""
        return SHARED_LIMIT

    def launch(
        self, kernel: Kernel, grid: Dim3, block: Dim3, arguments: Sequence[Argument], shared_bytes: int = 0
    ) -> None:
        """Run one kernel to its end; outputs are poisoned first. Raises KernelError with `file:line`."""
        if 0 in grid or is_shaping():
            return
        if kernel.source == _CHECKED.get():
            raise KernelError(
                f"{kernel.source}:1: {kernel.symbol} is launched in this process while it is checked; "
                "a trial launches through the launcher that it is given"
            )
        _demand_limits(kernel, grid, block, shared_bytes)
        if kernel not in self._kernels:
            self._kernels[kernel] = _load(build(kernel, "library"))
        run, entry = self._kernels[kernel]
        slots = [_slot(kernel, place, argument) for place, argument in enumerate(arguments)]
        pointers = (ctypes.c_void_p * len(slots))(*(ctypes.addressof(slot) for slot in slots))
        message = run(
            entry, (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), shared_bytes, pointers, self._schedule
        )
        if message is not None:
            raise KernelError(message.decode(errors="replace"))


class ProgramLauncher:
    """Runs kernels as programs with limits: for the sanitizers, and for sources nobody has checked yet.

    Every launch runs under all `schedules` from the same inputs, and the results must be the same bits.
    """

    most_blocks = MOST_BLOCKS

    def __init__(
        self, flavour: str = "plain", schedules: Sequence[str] = SCHEDULES, limits: child.Limits | None = None
    ) -> None:
        self.name = f"host-{flavour}"
        self._flavour = flavour
        self._schedules = [SCHEDULES.index(name) for name in schedules]
        self._limits = limits or child.Limits(memory_mib=4096 if flavour == "plain" else None)

    def shared_limit(self, like: Tensor) -> int:
        """As much as the newest cards."""
        return SHARED_LIMIT

    def launch(
        self, kernel: Kernel, grid: Dim3, block: Dim3, arguments: Sequence[Argument], shared_bytes: int = 0
    ) -> None:
        """Run one kernel; raises KernelError for whatever the runner, a sanitizer or a limit reports."""
        if 0 in grid:
            return
        _demand_limits(kernel, grid, block, shared_bytes)
        if self._flavour in ("address", "thread"):
            _demand_addresses()
        program = build(kernel, self._flavour)
        tensors = [_tensor(argument) for argument in arguments]
        values = [_bytes(kernel, place, one) for place, one in enumerate(arguments) if tensors[place] is None]
        for argument in arguments:
            if isinstance(argument, Out):
                poison(argument.tensor)
        with workspace("hecate-launch-") as folder:
            asked, result = folder / "launch", folder / "result"
            schedules = self._schedules + [0] * (len(SCHEDULES) - len(self._schedules))
            scalars = iter(values)
            with asked.open("wb") as file:
                file.write(struct.pack("<4s64s6IQ", b"HKL2", kernel.symbol.encode(), *grid, *block, shared_bytes))
                file.write(struct.pack("<8I", len(self._schedules), *schedules, len(arguments)))
                for tensor in tensors:
                    data = next(scalars) if tensor is None else span(tensor).numpy().tobytes()
                    kind, shift = (0, 0) if tensor is None else (1, behind_alignment(tensor))
                    file.write(struct.pack("<IIQ", kind, shift, len(data)) + data)
            self._run(program, asked, result, kernel)
            data = result.read_bytes() if result.is_file() else b""
        self._take_back(data, arguments, tensors, kernel)

    def _run(self, program: Path, asked: Path, result: Path, kernel: Kernel) -> None:
        environment = {"ASAN_OPTIONS": _ADDRESS_OPTIONS, "TSAN_OPTIONS": _THREAD_OPTIONS}
        finished = child.run(
            [str(program), str(asked), str(result)],
            self._limits,
            environment,
            fixed_addresses=self._flavour == "thread",
        )
        if finished.status == 0:
            return
        place = f"{kernel.source}:1"
        if finished.stopped:
            more = "; --seconds N allows more" if "longer" in finished.excess else ""
            raise KernelError(f"{place}: {kernel.symbol} {finished.excess} and was stopped{more}")
        if line := sanitizer_line(finished.text, kernel.source):
            raise KernelError(line)
        if finished.status is not None and finished.status < 0:
            raise KernelError(f"{place}: {kernel.symbol} crashed (signal {-finished.status})")
        if finished.status not in _TOLD:
            raise KernelError(f"{place}: {kernel.symbol} ended the program with status {finished.status}{_RETURNS}")
        line = next(reversed(finished.text.strip().splitlines()), "no message")
        raise KernelError(line if _PLACED.match(line) else f"{place}: {line}")

    def _take_back(
        self, data: bytes, arguments: Sequence[Argument], tensors: Sequence[Tensor | None], kernel: Kernel
    ) -> None:
        if len(data) != sum(span(one).numel() for one in tensors if one is not None):
            raise KernelError(
                f"{kernel.source}:1: {kernel.symbol} ended the program before its results were written{_RETURNS}"
            )
        offset = 0
        for position, (argument, tensor) in enumerate(zip(arguments, tensors, strict=True)):
            if tensor is None:
                continue
            target = span(tensor)
            piece = torch.from_numpy(np.frombuffer(data, np.uint8, target.numel(), offset).copy())
            offset += target.numel()
            if isinstance(argument, (Out, InOut)):
                target.copy_(piece)
            elif not torch.equal(target, piece):
                raise KernelError(
                    f"{kernel.source}:1: {kernel.symbol} writes into argument {position}, which is an input"
                )


def _demand_limits(kernel: Kernel, grid: Dim3, block: Dim3, shared_bytes: int) -> None:
    """Those of the newest cards, and that the blocks can be counted here."""
    demand_launchable(kernel, grid, block, shared_bytes, THREADS_LIMIT, SHARED_LIMIT)
    blocks = grid[0] * grid[1] * grid[2]
    if blocks > BLOCKS_LIMIT:
        raise KernelError(
            f"{kernel.source}:1: {kernel.symbol} wants {blocks} blocks; the host runs at most {BLOCKS_LIMIT}"
        )


def _demand_addresses() -> None:
    """Sanitizers map terabytes that they never touch; under a limit they would crash as if the kernel did."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        raise BackendMissingError(
            f"the address space is limited to {limit / (1 << 30):.0f} GiB; sanitizers need it unlimited (ulimit -v)"
        )


def _load(library: Path) -> tuple[Any, ctypes.c_void_p]:
    """How a kernel is launched, and its entry."""
    handle = ctypes.PyDLL(str(library))  # keeps the interpreter's lock: one launch at a time in a process
    run = handle.hecate_launch
    run.restype = ctypes.c_char_p
    run.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int]
    return run, ctypes.cast(handle.hecate_entry, ctypes.c_void_p)


def _tensor(argument: Argument) -> Tensor | None:
    if isinstance(argument, (Out, InOut)):
        return argument.tensor
    return argument if isinstance(argument, Tensor) else None


def _bytes(kernel: Kernel, place: int, argument: Argument) -> bytes:
    """A scalar; WidthError, which names the argument, for what has no width."""
    try:
        return scalar_bytes(argument)
    except WidthError as wrong:
        raise WidthError(f"{kernel.source}:1: argument {place} of {kernel.symbol}: {wrong}") from wrong


def _slot(kernel: Kernel, place: int, argument: Argument) -> ctypes.Array[ctypes.c_char] | ctypes.c_void_p:
    """Memory that holds the argument's value, as cuLaunchKernel wants it."""
    tensor = _tensor(argument)
    if tensor is None:
        return ctypes.create_string_buffer(_bytes(kernel, place, argument))
    if isinstance(argument, Out):
        poison(tensor)
    return ctypes.c_void_p(tensor.data_ptr())
