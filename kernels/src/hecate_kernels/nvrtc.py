"""The NVRTC backend: compiles a pair for the GPU at hand, keeps cubins on disk, launches on torch's stream.

cuda.core does the compiling, loading and launching and has the program cache; it is imported on first
use only. What stands here: the text is one piece (device headers inlined), entries of the cache carry a
digest bound to their key, limits are checked before a launch, scalars are typed.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hecate_core.api import is_shaping
from hecate_kernels.cache import REMEDY
from hecate_kernels.failure import BackendMissingError, KernelError, MachineError, compiler_line
from hecate_kernels.flatten import flatten
from hecate_kernels.launch import demand_launchable
from hecate_kernels.nvrtc_worker import Job, compile_cubin, options
from hecate_kernels.pair import SHARED_LIMITS, Argument, Dim3, InOut, Kernel, Out
from hecate_kernels.storage import WidthError, demand_width

ARCHITECTURES = tuple(SHARED_LIMITS)
_REFERENCE = 'use backend = "reference"'


class Driver(Protocol):
    """The part of a CUDA driver that launching needs; tests give one without a GPU."""

    def arch(self, device: int) -> str:
        """The architecture of a device, such as `sm_90a`."""
        ...

    def shared_limit(self, device: int) -> int:
        """Most bytes of shared memory of one block."""
        ...

    def load(self, cubin: bytes, symbol: str, device: int) -> Any:
        """A loaded kernel."""
        ...

    def limits(self, kernel: Any, device: int) -> tuple[int, int]:
        """Largest number of threads per block of this kernel, and of dynamic shared bytes of the device."""
        ...

    def launch(
        self, kernel: Any, grid: Dim3, block: Dim3, shared_bytes: int, arguments: Sequence[Any], device: int
    ) -> None:
        """Put the kernel on torch's current stream of the device."""
        ...


class NvrtcLauncher:
    """Runs kernels on the GPU that holds the tensors."""

    name = "nvrtc"
    most_blocks = 1024

    def __init__(self, driver: Driver | None = None, cache: "ProgramCache | None" = None) -> None:
        self._driver = driver
        self._cache = cache
        self._kernels: dict[tuple[Kernel, int], tuple[Any, int, int]] = {}
        self._shared: dict[int, int] = {}

    def shared_limit(self, like: Tensor) -> int:
        """What the tensor's card gives one block; the current one where a tensor has no numbers and so no place."""
        device = torch.cuda.current_device() if like.is_meta else _common_device([like], None)
        if device not in self._shared:
            self._shared[device] = self._open().shared_limit(device)
        return self._shared[device]

    def prepare(self, kernel: Kernel, device: int) -> tuple[Any, int, int]:
        """Compile and load a kernel, so that a later launch allocates nothing (CUDA graphs)."""
        key = (kernel, device)
        if key not in self._kernels:
            driver = self._open()
            if self._cache is None:
                self._cache = ProgramCache()
            cubin = self._cache.cubin(kernel, driver.arch(device))
            loaded = driver.load(cubin, kernel.symbol, device)
            self._kernels[key] = (loaded, *driver.limits(loaded, device))
        return self._kernels[key]

    def launch(
        self, kernel: Kernel, grid: Dim3, block: Dim3, arguments: Sequence[Argument], shared_bytes: int = 0
    ) -> None:
        """Launch on torch's current stream; raises KernelError for what the card cannot run, before it runs."""
        if 0 in grid or is_shaping():
            return
        tensors = [
            t.tensor if isinstance(t, (Out, InOut)) else t for t in arguments if isinstance(t, (Out, InOut, Tensor))
        ]
        device = _common_device(tensors, kernel)
        loaded, most_threads, most_shared = self.prepare(kernel, device)
        demand_launchable(kernel, grid, block, shared_bytes, most_threads, most_shared)
        try:
            values = [_value(one) for one in arguments]
        except WidthError as wrong:
            raise WidthError(f"{kernel.source}:1: an argument of {kernel.symbol}: {wrong}") from wrong
        self._open().launch(loaded, grid, block, shared_bytes, values, device)

    def _open(self) -> Driver:
        if self._driver is None:
            self._driver = open_driver()
        return self._driver


class ProgramCache:
    """cuda.core's on-disk program cache; an entry counts only if its digest fits its key."""

    def __init__(self, folder: Path | None = None) -> None:
        from cuda.core.utils import FileStreamProgramCache

        given = os.environ.get("HECATE_KERNEL_CACHE")
        place = folder or (Path(given) / "cubin" if given else None)
        with _kept_in(place):
            self._store = FileStreamProgramCache(place)
        self._place = place

    def cubin(self, kernel: Kernel, arch: str) -> bytes:
        """The compiled kernel, from the cache if it is whole and ours, else compiled and kept.

        Raises MachineError where the folder refuses to give or keep it.
        """
        from cuda.core.utils import make_program_cache_key

        job = as_job(kernel, arch)
        key = make_program_cache_key(
            code=job.text,
            code_type="c++",
            options=options(job),
            target_type="cubin",
            extra_digest=importlib.metadata.version("hecate-kernels").encode(),
        )
        with _kept_in(self._place):
            kept = self._store.get(key)
        if kept is not None and (cubin := opened(key, bytes(kept))) is not None:
            return cubin
        cubin, compiled = compile_cubin(job)
        if "invalid value for --gpu-architecture" in compiled.log:
            raise BackendMissingError(
                f'backend "nvrtc": the compiler does not know {arch}; install a newer nvidia-cuda-nvrtc, '
                f"or {_REFERENCE}"
            )
        if compiled.failed:
            raise KernelError(compiler_line(compiled.log, kernel.source, f"nvrtc, {arch}"))
        with _kept_in(self._place):
            self._store[key] = sealed(key, cubin)
        return cubin


@contextlib.contextmanager
def _kept_in(place: Path | None) -> Iterator[None]:
    """MachineError, in one line, for whatever the disk refuses."""
    try:
        yield
    except OSError as error:
        raise MachineError.of(error.filename or place or "the cache of cubins", error, REMEDY) from error


def sealed(key: bytes, cubin: bytes) -> bytes:
    """A cache entry: a digest over key and content, then the content."""
    return hashlib.sha256(key + cubin).digest() + cubin


def opened(key: bytes, entry: bytes) -> bytes | None:
    """The content of an entry; None if it is damaged or was made for another key."""
    cubin = entry[32:]
    return cubin if cubin and hashlib.sha256(key + cubin).digest() == entry[:32] else None


def as_job(kernel: Kernel, arch: str) -> Job:
    """A kernel as the worker takes it."""
    return Job(flatten(kernel.source), kernel.symbol, arch, tuple((n, str(v)) for n, v in kernel.constants))


def require_compiler() -> None:
    """Raises BackendMissingError, in one line, where NVRTC or cuda.core is not installed."""
    try:
        importlib.import_module("cuda.core")
        importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise BackendMissingError(
            f'backend "nvrtc": {str(error).splitlines()[0]}; install hecate-kernels[cuda], or {_REFERENCE}'
        ) from error


def open_driver() -> Driver:
    """The machine's CUDA driver; BackendMissingError, in one line, where there is none that fits."""
    require_compiler()
    if torch.version.cuda is None:
        raise BackendMissingError(f'backend "nvrtc": this torch was built without CUDA; {_REFERENCE}')
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # no driver, too old a driver, no card: torch says which
        why = (str(error).splitlines() or ["no usable NVIDIA GPU"])[0].partition(". ")[0].rstrip(".")
        raise BackendMissingError(f'backend "nvrtc": {why}; {_REFERENCE}') from error
    driver, compiler = cuda_versions()
    if driver[0] < compiler[0]:
        raise BackendMissingError(
            f'backend "nvrtc": the driver knows CUDA {driver[0]}.{driver[1]}, nvidia-cuda-nvrtc is for CUDA '
            f"{compiler[0]}.{compiler[1]}; update the driver, install the compiler for CUDA {driver[0]}, "
            f"or {_REFERENCE}"
        )
    found = CudaDriver()
    found.arch(torch.cuda.current_device())
    return found


def cuda_versions() -> tuple[tuple[int, int], tuple[int, int]]:
    """What the driver and the compiler speak, as (major, minor) of CUDA each."""
    status, driver = importlib.import_module("cuda.bindings.driver").cuDriverGetVersion()
    _check(status)
    status, *compiler = importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    _check(status)
    return (driver // 1000, driver % 1000 // 10), (int(compiler[0]), int(compiler[1]))


class CudaDriver:
    """cuda.core over torch's primary context."""

    def arch(self, device: int) -> str:
        """See `Driver.arch`; the oldest supported card is 8.0."""
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            raise BackendMissingError(
                f'backend "nvrtc": {torch.cuda.get_device_name(device)} is sm_{major}{minor}; '
                f"needs sm_80 or newer, or {_REFERENCE}"
            )
        return f"sm_{major}{minor}" + ("a" if (major, minor) == (9, 0) else "")

    def load(self, cubin: bytes, symbol: str, device: int) -> Any:
        """See `Driver.load`."""
        from cuda.core import Device, ObjectCode

        torch.cuda.init()
        Device(device).set_current()
        return ObjectCode.from_cubin(cubin, name=symbol).get_kernel(symbol)

    def shared_limit(self, device: int) -> int:
        """See `Driver.shared_limit`: with the opt-in above 48 KiB."""
        found: Any = torch.cuda.get_device_properties(device)
        return int(found.shared_memory_per_block_optin)

    def limits(self, kernel: Any, device: int) -> tuple[int, int]:
        """See `Driver.limits`; also lets the kernel use all of the shared memory that it may."""
        from cuda.bindings import driver

        view = kernel.attributes[device]
        dynamic = self.shared_limit(device) - int(view.shared_size_bytes)
        name = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        (status,) = driver.cuKernelSetAttribute(name, dynamic, driver.CUkernel(int(kernel.handle)), device)
        _check(status)
        return int(view.max_threads_per_block), dynamic

    def launch(
        self, kernel: Any, grid: Dim3, block: Dim3, shared_bytes: int, arguments: Sequence[Any], device: int
    ) -> None:
        """See `Driver.launch`."""
        from cuda.core import Device, launch

        Device(device).set_current()  # autograd runs backward on threads of its own
        config = _launch_config(grid, block, shared_bytes)
        launch(_Stream(torch.cuda.current_stream(device).cuda_stream), config, kernel, *arguments)


@lru_cache(maxsize=4096)
def _launch_config(grid: Dim3, block: Dim3, shared_bytes: int) -> Any:
    from cuda.core import LaunchConfig

    return LaunchConfig(grid=grid, block=block, shmem_size=shared_bytes)


class _Stream:
    """torch's stream in the form that cuda.core accepts."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._handle


def _check(status: Any) -> None:
    if int(status) != 0:
        raise KernelError(f"CUDA driver: {status.name}")


def _common_device(tensors: Sequence[Tensor], kernel: Kernel | None) -> int:
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1 or next(iter(devices)).type != "cuda":
        names = ", ".join(sorted(map(str, devices))) or "no tensor"
        raise KernelError(
            f'{kernel.symbol if kernel else "kernels"}: arguments are on {names}; backend "nvrtc" wants one CUDA device'
        )
    index = next(iter(devices)).index
    return int(torch.cuda.current_device() if index is None else index)


def _value(argument: Argument) -> Any:
    """A pointer as an integer, a scalar as it is (it must have a width)."""
    if isinstance(argument, (Out, InOut)):
        return argument.tensor.data_ptr()
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    demand_width(argument)
    return argument
