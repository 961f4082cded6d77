"""What compiled kernels use, without a GPU: registers, spills, static and dynamic shared memory, against a budget."""

import json
import math
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from hecate_kernels import child, nvrtc_worker
from hecate_kernels.cache import workspace
from hecate_kernels.failure import KernelError, MachineError, compiler_line, refusal
from hecate_kernels.host import only_in_children
from hecate_kernels.nvrtc import ARCHITECTURES, as_job, require_compiler
from hecate_kernels.pair import SHARED_LIMITS, Argument, Budget, CheckedPair, Dim3, Kernel
from hecate_kernels.strangers import calling

COMPILE_S = 120  # seconds that the compiler may take for one kernel


@attrs.frozen
class Use:
    """What one kernel uses: per thread, and in bytes per block; `dynamic` is None where nobody says."""

    registers: int
    spill_bytes: int
    static: int
    dynamic: int | None

    @property
    def shared_bytes(self) -> int:
        """All shared memory of a block, as far as it is known."""
        return self.static + (self.dynamic or 0)

    @classmethod
    def of(cls, compiled: nvrtc_worker.Compiled, dynamic: int | None = 0) -> "Use":
        """What the compiler reports, and what launches ask for beside it."""
        return cls(compiled.registers, compiled.spill_bytes, compiled.shared_bytes, dynamic)


def over_budget(use: Use, budget: Budget, arch: str | None = None) -> str | None:
    """What a kernel uses beyond its declared budget or beyond what a card gives, in words, or None."""
    if use.registers > budget.registers:
        return f"{use.registers} registers; declared {budget.registers}"
    if use.spill_bytes > budget.spill_bytes:
        return f"{use.spill_bytes} bytes spilled; declared {budget.spill_bytes}"
    if budget.spill_bytes and not budget.spill_reason:
        return "spilled bytes that are declared without a reason"
    shared = f"{use.shared_bytes} bytes of shared memory ({use.static} static, {use.dynamic} dynamic)"
    if use.dynamic is None:
        return "dynamic shared memory of which nobody says how much; give Kernel(shared_bytes=...) or a trial of it"
    if use.shared_bytes > budget.shared_bytes:
        return f"{shared}; declared {budget.shared_bytes}"
    if arch is not None and use.shared_bytes > SHARED_LIMITS[arch]:
        return f"{shared}; {arch} gives {SHARED_LIMITS[arch]}"
    return None


def compile_report(
    pair: CheckedPair, archs: Iterable[str] = ARCHITECTURES
) -> Iterator[tuple[Kernel, str, nvrtc_worker.Compiled, Use]]:
    """Compiles every specialisation without a GPU, in a child per architecture, and says what each uses.

    Raises BackendMissingError where there is no compiler, KernelError for specialisations that are none.
    """
    require_compiler()
    asked: dict[int, dict[Kernel, int]] = {}
    for arch in archs:
        limit = SHARED_LIMITS[arch]
        with calling("specialisations()", "Kernels, by the shared memory of a block", pair):
            kernels = [_kernel(one) for one in pair.specialisations(limit)]
        if limit not in asked and any(one.shared_bytes is None for one in kernels):
            asked[limit] = asked_for(pair, limit)
        for kernel, compiled in compiled_for(arch, kernels):
            dynamic = asked[limit].get(kernel) if kernel.shared_bytes is None else kernel.shared_bytes
            yield kernel, arch, compiled, Use.of(compiled, dynamic)


def demand_compiled(kernel: Kernel, arch: str, compiled: nvrtc_worker.Compiled, by_name: bool = True) -> None:
    """KernelError for what did not compile, or is not there; `by_name`: under the name that a launch asks for."""
    if compiled.failed:
        raise KernelError(compiler_line(compiled.log, kernel.source, f"nvrtc, {arch}"))
    if not compiled.entry or (by_name and compiled.entry != kernel.symbol):
        there = f", but {compiled.entry}" if compiled.entry else ""
        raise KernelError(
            f'{kernel.source}:1: no kernel "{kernel.symbol}"{there}; expected extern "C" __global__ void '
            f"{kernel.symbol}(...) (nvrtc, {arch})"
        )


def _kernel(one: Any) -> Kernel:
    if not isinstance(one, Kernel):
        raise TypeError(f"a specialisation is {type(one).__name__}")
    return one


def compiled_for(arch: str, kernels: Sequence[Kernel]) -> Iterator[tuple[Kernel, nvrtc_worker.Compiled]]:
    """Compiles kernels for one architecture, in a child with limits; KernelError where it does not come to an end."""
    with workspace("hecate-nvrtc-") as folder:
        jobs, results = folder / "jobs", folder / "results"
        jobs.write_text(json.dumps([attrs_of(as_job(kernel, arch)) for kernel in kernels]))
        worker = [sys.executable, str(Path(nvrtc_worker.__file__)), str(jobs), str(results), str(COMPILE_S)]
        seconds = COMPILE_S * max(1, len(kernels))
        finished = child.run(worker, child.Limits(wall_s=seconds, cpu_s=seconds, memory_mib=8192))
        lines = results.read_text().splitlines() if results.exists() else []
    whole = list(_records(lines))
    yield from zip(kernels, whole, strict=False)
    if len(whole) < len(kernels):
        raise _unfinished(finished, kernels[len(whole)], arch)


def _records(lines: list[str]) -> Iterator[nvrtc_worker.Compiled]:
    """As many as were written whole."""
    for line in lines:
        try:
            yield nvrtc_worker.Compiled(**json.loads(line))
        except ValueError:
            return


def _unfinished(finished: child.Finished, at: Kernel, arch: str) -> KernelError | MachineError:
    if reason := refusal(finished.text):
        return MachineError(f"nvrtc, {arch}: {reason}; make room, or raise the limit on files (ulimit -f)")
    if finished.status == -signal.SIGALRM:
        how = f"took longer than {COMPILE_S} s and was stopped"
    else:
        said = next(reversed(finished.text.strip().splitlines()), "said nothing")
        how = finished.excess or f"ended with status {finished.status} ({said})"
    return KernelError(f"{at.source}:1: compiling {at}: the compiler {how} (nvrtc, {arch})")


def attrs_of(job: nvrtc_worker.Job) -> dict[str, Any]:
    """A job as JSON."""
    return {"text": job.text, "symbol": job.symbol, "arch": job.arch, "constants": list(job.constants)}


class _Asking:
    """A launcher that runs nothing and remembers how much dynamic shared memory it was asked for."""

    name, most_blocks = "asking", 1

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.found: dict[Kernel, int] = {}

    def shared_limit(self, like: Tensor) -> int:
        """As the card's."""
        return self._limit

    def launch(
        self, kernel: Kernel, grid: Dim3, block: Dim3, arguments: Sequence[Argument], shared_bytes: int = 0
    ) -> None:
        """Remembers the most that was asked for."""
        if math.prod(grid):
            self.found[kernel] = max(shared_bytes, self.found.get(kernel, 0))


def asked_for(pair: CheckedPair, limit: int) -> dict[Kernel, int]:
    """Dynamic shared memory by kernel, as the covering cases ask for it on a card with so much of it per block."""
    where = _Asking(limit)
    asking = calling("trials(), asked what they launch,", "Trials whose run launches through what it is given", pair)
    with asking, only_in_children(pair.kernels.source):
        for trial in pair.trials(False):
            trial.run(where)
    return where.found
