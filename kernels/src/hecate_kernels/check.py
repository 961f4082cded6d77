"""Everything that can be proven about a pair without a GPU, one line per check."""

import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from hecate_core.api import HecateError
from hecate_kernels import child, nvrtc_worker
from hecate_kernels.compare import TIMES_OF_REFERENCE, Difference, differences
from hecate_kernels.failure import BackendMissingError, KernelError, compiler_line
from hecate_kernels.host import SCHEDULES, ProgramLauncher
from hecate_kernels.launch import Dim3
from hecate_kernels.nvrtc import ARCHITECTURES, as_job, require_compiler
from hecate_kernels.pair import SHARED_LIMITS, Argument, Budget, CheckedPair, Kernel, Tolerance, Trial

CHECKS = ("numbers", "address", "race", "compile")
SANITIZER_SCHEDULES = {"address": ("ascending",), "thread": ("ascending",)}
RUN_LIMITS = child.Limits(wall_s=600, cpu_s=590)
COMPILE_LIMITS = child.Limits(wall_s=900, cpu_s=290, memory_mib=None)


@attrs.frozen
class Line:
    """The outcome of one check of one pair."""

    pair: str
    check: str
    good: bool
    text: str

    def __str__(self) -> str:
        return f"{self.pair:<16} {self.check:<9} {'ok' if self.good else 'FAULT':<6} {self.text}"


def check_pair(
    name: str,
    pair: CheckedPair,
    thorough: bool = False,
    checks: Sequence[str] = CHECKS,
    limits: child.Limits = RUN_LIMITS,
) -> Iterator[Line]:
    """Numbers under all schedules, AddressSanitizer, racecheck, and the compiler for every architecture.

    `limits` holds for every single launch.
    """
    steps: dict[str, Callable[[], str]] = {
        "numbers": functools.partial(_numbers, pair, thorough, limits),
        "address": functools.partial(_sanitized, pair, "address", thorough, limits),
        "race": functools.partial(_sanitized, pair, "thread", thorough, limits),
        "compile": functools.partial(_compiles, pair),
    }
    for check in checks:
        try:
            yield Line(name, check, True, steps[check]())
        except BackendMissingError as missing:
            yield Line(name, check, True, f"skipped: {missing}")
        except HecateError as error:
            yield Line(name, check, False, str(error))


def compile_report(pair: CheckedPair, archs: Iterable[str] = ARCHITECTURES) -> Iterator[tuple[Kernel, str, Any]]:
    """Compiles without a GPU, in a child per architecture; yields kernel, architecture, `nvrtc_worker.Compiled`."""
    require_compiler()
    for arch in archs:
        yield from _compiled_for(arch, list(pair.specialisations(SHARED_LIMITS[arch])))


def _compiled_for(arch: str, kernels: list[Kernel]) -> Iterator[tuple[Kernel, str, Any]]:
    with tempfile.TemporaryDirectory(prefix="hecate-nvrtc-") as folder:
        jobs, results = Path(folder) / "jobs", Path(folder) / "results"
        jobs.write_text(json.dumps([attrs_of(as_job(kernel, arch)) for kernel in kernels]))
        worker = [sys.executable, str(Path(nvrtc_worker.__file__)), str(jobs), str(results)]
        finished = child.run(worker, COMPILE_LIMITS)
        lines = results.read_text().splitlines() if results.exists() else []
    for kernel, line in zip(kernels, lines, strict=False):
        yield kernel, arch, nvrtc_worker.Compiled(**json.loads(line))
    if len(lines) < len(kernels):
        how = "took too long" if finished.stopped else f"ended with status {finished.status}"
        at = kernels[len(lines)]
        raise KernelError(f"{at.source}:1: the compiler {how} on {at.symbol} (nvrtc, {arch})")


def attrs_of(job: nvrtc_worker.Job) -> dict[str, Any]:
    """A job as JSON."""
    return {"text": job.text, "symbol": job.symbol, "arch": job.arch, "constants": list(job.constants)}


def over_budget(compiled: Any, budget: Budget) -> str | None:
    """What a compiled kernel uses beyond its declared budget, or None."""
    if compiled.registers > budget.registers:
        return f"{compiled.registers} registers; declared {budget.registers}"
    if compiled.spill_bytes > budget.spill_bytes:
        return f"{compiled.spill_bytes} bytes spilled; declared {budget.spill_bytes}"
    if budget.spill_bytes and not budget.spill_reason:
        return "declares spilled bytes without a reason"
    if compiled.shared_bytes > budget.shared_bytes:
        return f"{compiled.shared_bytes} bytes of static shared memory; declared {budget.shared_bytes}"
    return None


def _numbers(pair: CheckedPair, thorough: bool, limits: child.Limits) -> str:
    worst: dict[tuple[str, bool], Difference] = {}
    count = 0
    where = _Counted(ProgramLauncher("plain", SCHEDULES if pair.kernels.deterministic else SCHEDULES[:1], limits))
    for trial in pair.trials(thorough):
        count += 1
        if not any(name.startswith("d_") for name in trial.truth()):
            raise KernelError(f"{pair.kernels.source}:1: the truth of {trial.name} has no gradient (d_NAME) to check")
        for one in differences(trial, pair.kernels.tolerance[trial.dtype], where):
            if not one.good:
                raise KernelError(f"{pair.kernels.source}:1: {one.line()}")
            key = (trial.dtype, one.is_gradient)
            if key not in worst or one.error > worst[key].error:
                worst[key] = one
    if not count:
        raise KernelError(f"{pair.kernels.source}:1: the pair declares no trials, so nothing was checked")
    where.demand(pair)
    found = [_worst(dtype, one, pair.kernels.tolerance[dtype]) for (dtype, _), one in sorted(worst.items())]
    orders = f"same bits in {len(SCHEDULES)} orders" if pair.kernels.deterministic else "1 order (atomics)"
    return f"{', '.join(found)}, {count} cases, {orders}"


class _Counted:
    """A launcher that knows which kernels ran on it: what no trial launches is not checked."""

    def __init__(self, where: ProgramLauncher) -> None:
        self.name, self.most_blocks, self.shared_limit = where.name, where.most_blocks, where.shared_limit
        self._where, self._seen = where, set[str]()

    def launch(
        self, kernel: Kernel, grid: Dim3, block: Dim3, arguments: Sequence[Argument], shared_bytes: int = 0
    ) -> None:
        """As the launcher within."""
        self._where.launch(kernel, grid, block, arguments, shared_bytes)
        self._seen |= {kernel.symbol} if 0 not in grid else set()

    def demand(self, pair: CheckedPair) -> None:
        """KernelError for a kernel of the pair that never ran."""
        for symbol in pair.kernels.symbols:
            if symbol not in self._seen:
                raise KernelError(f"{pair.kernels.source}:1: no trial launches {symbol} here, so it was not checked")


def _worst(dtype: str, one: Difference, tolerance: Tolerance) -> str:
    """The largest error of a dtype and direction; what allowed it where that was the float32 reference's own."""
    which, most = ("gradients", tolerance.backward) if one.is_gradient else ("forward", tolerance.forward)
    more = f" (float32 reference {one.allowed / TIMES_OF_REFERENCE:.1e})" if one.error > most else ""
    return f"{dtype} {which} {one.error:.1e}{more}"


def _sanitized(pair: CheckedPair, flavour: str, thorough: bool, limits: child.Limits) -> str:
    unbounded = attrs.evolve(limits, memory_mib=None)  # sanitizers map terabytes; they bound themselves
    where = _Counted(ProgramLauncher(flavour, SANITIZER_SCHEDULES[flavour], unbounded))
    chosen = _representatives(pair.trials(True)) if thorough and flavour == "thread" else None
    count = 0
    for trial in pair.trials(thorough):
        if (trial.quick or thorough) if chosen is None else trial.name in chosen:
            trial.run(where)
            count += 1
    if not count:
        raise KernelError(f"{pair.kernels.source}:1: the pair declares no quick trials, so nothing was checked")
    where.demand(pair)
    return f"{count} cases without a report"


def _representatives(trials: Iterable[Trial]) -> set[str]:
    """A case for every length, size and dtype, rules and layouts in turn: races do not depend on numbers."""
    cells: dict[tuple[int, int, str], list[str]] = {}
    for trial in trials:
        if not trial.heavy:
            cells.setdefault((trial.length, trial.width, trial.dtype), []).append(trial.name)
    return {names[place % len(names)] for place, names in enumerate(cells.values())}


def _compiles(pair: CheckedPair) -> str:
    most, count, left = 0, 0, set(pair.kernels.symbols)
    for kernel, arch, compiled in compile_report(pair):
        if compiled.failed:
            raise KernelError(compiler_line(compiled.log, kernel.source, f"nvrtc, {arch}"))
        budget = pair.kernels.budgets.get(kernel.symbol, Budget())
        if excess := over_budget(compiled, budget):
            shown = " ".join(f"{name}={value}" for name, value in kernel.constants)
            raise KernelError(f"{kernel.source}:1: {kernel.symbol} [{shown}] uses {excess} ({arch})")
        most, count = max(most, compiled.registers), count + 1
        left.discard(kernel.symbol)
    if left:
        raise KernelError(f"{pair.kernels.source}:1: {min(left)} is in no specialisation, so it was not compiled")
    return f"{count} compiled for {len(ARCHITECTURES)} architectures, at most {most} registers"
