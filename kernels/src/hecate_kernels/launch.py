"""One door to the places where kernels run: `launcher("host")`, `launcher("nvrtc")`."""

from functools import cache
from pathlib import Path
from typing import ClassVar

import attrs

from hecate_core.api import InputError
from hecate_kernels.failure import BackendMissingError
from hecate_kernels.pair import KernelPair, Launcher

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


class LaunchedPair:
    """What pairs over a launcher have in common; a subclass says what it declares and adds the op itself.

    `where` is a launcher or the name of a backend; `source` stands in for the declared `.cu`.
    """

    declared: ClassVar[KernelPair]

    def __init__(self, where: Launcher | str, source: Path | None = None) -> None:
        self._where = launcher(where) if isinstance(where, str) else where
        self.backend = self._where.name
        self.kernels = self.declared if source is None else attrs.evolve(self.declared, source=source)
