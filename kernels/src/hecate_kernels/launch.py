"""One door to the places where kernels run: `launcher("host")`, `launcher("nvrtc")`."""

from functools import cache
from pathlib import Path
from typing import ClassVar

import attrs

from hecate_core.api import InputError
from hecate_kernels.failure import BackendMissingError, KernelError
from hecate_kernels.pair import Dim3, Kernel, KernelPair, Launcher

BACKENDS = ("host", "nvrtc")
GRID_LIMIT = (2**31 - 1, 65535, 65535)
BLOCK_LIMIT = (1024, 1024, 64)


def demand_launchable(
    kernel: Kernel, grid: Dim3, block: Dim3, shared_bytes: int, most_threads: int, most_shared: int
) -> None:
    """Raises KernelError, in one line, for a launch that no card runs or that this place cannot.

    `most_threads` per block and `most_shared` bytes of dynamic shared memory are those of the place. A grid with a
    zero is no fault: there is nothing to do.
    """
    threads = block[0] * block[1] * block[2]
    if all(0 <= asked <= most for asked, most in zip(grid, GRID_LIMIT, strict=True)) and (
        0 < threads <= most_threads
        and 0 <= shared_bytes <= most_shared
        and all(0 < asked <= most for asked, most in zip(block, BLOCK_LIMIT, strict=True))
    ):
        return
    place = f"{kernel.source}:1: {kernel.symbol}"
    if any(not 0 <= asked <= most for asked, most in zip(grid, GRID_LIMIT, strict=True)):
        raise KernelError(f"{place} wants a grid of {grid}; the largest is {GRID_LIMIT}")
    if any(not 0 < asked <= most for asked, most in zip(block, BLOCK_LIMIT, strict=True)):
        raise KernelError(f"{place} wants a block of {block}; it has at least (1, 1, 1) and at most {BLOCK_LIMIT}")
    if threads > most_threads:
        raise KernelError(f"{place} wants {threads} threads per block; this kernel can run with {most_threads}")
    raise KernelError(f"{place} wants {shared_bytes} bytes of shared memory; this card gives {most_shared}")


@cache
def launcher(backend: str) -> Launcher:
    """The launcher of a backend: `host` runs on the CPU, `nvrtc` on the GPU that holds the tensors.

    Nothing is compiled or opened here; the first launch says in one line what is missing.
    """
    if backend == "host":
        from hecate_kernels.host import HostLauncher

        return HostLauncher()
    if backend == "nvrtc":
        from hecate_kernels.nvrtc import NvrtcLauncher

        return NvrtcLauncher()
    raise InputError(f'backend "{backend}": no kernels run there; known: {", ".join(BACKENDS)}')


@cache
def lacking(backend: str) -> str | None:
    """What this machine lacks to run kernels on a backend, in one line; None for a backend that is not ours."""
    try:
        if backend == "host":
            from hecate_kernels.cpu_build import find_compiler

            find_compiler()
        elif backend == "nvrtc":
            from hecate_kernels.nvrtc import open_driver

            open_driver()
    except BackendMissingError as missing:
        return str(missing)
    return None


class LaunchedPair:
    """What pairs over a launcher have in common; a subclass says what it declares and adds the op itself.

    `where` is a launcher or the name of a backend; `source` stands in for the declared `.cu`.
    """

    declared: ClassVar[KernelPair]

    def __init__(self, where: Launcher | str, source: Path | None = None) -> None:
        self._where = launcher(where) if isinstance(where, str) else where
        self.backend = self._where.name
        self.kernels = self.declared if source is None else attrs.evolve(self.declared, source=source)
