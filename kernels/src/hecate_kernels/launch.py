"""One door to the places where kernels run: `launcher("host")`, `launcher("nvrtc")`."""

from functools import cache

from hecate_core.api import InputError
from hecate_kernels.failure import BackendMissingError
from hecate_kernels.pair import Launcher

BACKENDS = ("host", "nvrtc")


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
