"""Everything that can be proven about a pair without a GPU, one line per check."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor

from hecate_core.api import ExitCode, HecateError
from hecate_kernels import child
from hecate_kernels.compare import TIMES_OF_REFERENCE, Difference, differences
from hecate_kernels.failure import BackendMissingError, BrokenPairError, KernelError, MachineError
from hecate_kernels.host import SCHEDULES, ProgramLauncher, only_in_children
from hecate_kernels.nvrtc import ARCHITECTURES
from hecate_kernels.overdue import not_counted
from hecate_kernels.pair import Argument, Budget, CheckedPair, Dim3, Kernel, Outputs, Tolerance, Trial
from hecate_kernels.resources import compile_report, demand_compiled, over_budget
from hecate_kernels.strangers import calling, place_of, raised

CHECKS = ("numbers", "address", "race", "compile")
SANITIZER_SCHEDULES = {"address": ("ascending",), "thread": ("ascending",)}
_END = object()
LAUNCH_S, THOROUGH_LAUNCH_S = 60, 600  # seconds that one launch may take


@attrs.frozen
class Line:
    """The outcome of one check of one pair: DONE, FOUND, or the exit status of what kept it from running."""

    pair: str
    check: str
    status: ExitCode
    text: str

    @property
    def good(self) -> bool:
        """Whether it ran and found nothing."""
        return self.status == ExitCode.DONE

    @property
    def ran(self) -> bool:
        """Whether it came to a verdict."""
        return self.status in (ExitCode.DONE, ExitCode.FOUND)

    def __str__(self) -> str:
        verdict = {ExitCode.DONE: "ok", ExitCode.FOUND: "FAULT"}.get(self.status, "NOT RUN")
        return f"{self.pair:<16} {self.check:<9} {verdict:<8} {self.text}"

    @classmethod
    def of(cls, pair: str, check: str, run: Callable[[], str], about: Any = None) -> "Line":
        """What comes of a check, whatever it raises but KeyboardInterrupt; `about` is the pair, for places."""
        try:
            return cls(pair, check, ExitCode.DONE, run())
        except (BackendMissingError, BrokenPairError, MachineError) as lacking:
            return cls(pair, check, lacking.exit_code, _one_line(lacking))
        except HecateError as error:
            return cls(pair, check, ExitCode.FOUND, _one_line(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # what a stranger hands over may do anything when it is looked at
            return cls(pair, check, ExitCode.FOUND, f"{place_of(error, about)}: the check of it {raised(error)}")


def limits_of(seconds: int) -> child.Limits:
    """What one launch may use when it may take so long."""
    return child.Limits(wall_s=seconds, cpu_s=seconds)


def check_pair(
    name: str,
    pair: CheckedPair,
    thorough: bool = False,
    checks: Sequence[str] = CHECKS,
    limits: child.Limits | None = None,
) -> Iterator[Line]:
    """Numbers under all schedules, AddressSanitizer, racecheck, and the compiler for every architecture.

    `limits` holds for every single launch. Whatever a pair raises is a line, and the next check follows.
    """
    limits = limits or limits_of(THOROUGH_LAUNCH_S if thorough else LAUNCH_S)
    steps: dict[str, Callable[[], str]] = {
        "numbers": functools.partial(_numbers, pair, thorough, limits),
        "address": functools.partial(_sanitized, pair, "address", thorough, limits),
        "race": functools.partial(_sanitized, pair, "thread", thorough, limits),
        "compile": functools.partial(_compiles, pair),
    }
    for check in checks:
        yield Line.of(name, check, steps[check], pair)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).splitlines())


def _cases(pair: CheckedPair, thorough: bool) -> Iterator[Trial]:
    """The trials of a pair, looked at one by one, with calls that say whose they are."""
    with calling("trials()", "an iterable of Trial", pair):
        left = iter(pair.trials(thorough))
    while True:
        with calling("trials()", "an iterable of Trial", pair):
            trial = next(left, _END)
        if trial is _END:
            return
        if not isinstance(trial, Trial):
            raise KernelError(f"{pair.kernels.source}:1: trials() gives {type(trial).__name__}; expected Trial")
        if trial.dtype not in pair.kernels.tolerance:
            declared = ", ".join(sorted(pair.kernels.tolerance)) or "none"
            raise KernelError(
                f"{pair.kernels.source}:1: {trial.name} is in {trial.dtype}, for which the pair declares no tolerance; "
                f"declared: {declared}"
            )
        yield _guarded(trial, pair)


def _guarded(trial: Trial, pair: CheckedPair) -> Trial:
    """The same trial; what its functions raise, and what they hand over that is no result, has a place."""

    def guard(function: Callable[..., Outputs], what: str) -> Callable[..., Outputs]:
        def call(*given: Any) -> Outputs:
            named = calling(f"the {what} of {trial.name}", "tensors by name", pair)
            with named, only_in_children(pair.kernels.source):
                return _outputs(function(*given))

        return call

    truth = functools.cache(guard(trial.truth, "truth"))
    single = None if trial.single is None else guard(trial.single, "float32 reference")
    return attrs.evolve(trial, run=guard(trial.run, "run"), truth=truth, single=single)


def _outputs(found: Any) -> Outputs:
    if not isinstance(found, Mapping) or not all(isinstance(one, Tensor) for one in found.values()):
        raise TypeError(f"it gives {type(found).__name__}, no tensors by name")
    return found


def _numbers(pair: CheckedPair, thorough: bool, limits: child.Limits) -> str:
    worst: dict[tuple[str, bool], Difference] = {}
    count = 0
    where = _Counted(ProgramLauncher("plain", SCHEDULES if pair.kernels.deterministic else SCHEDULES[:1], limits))
    for trial in _cases(pair, thorough):
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
        """As the launcher within; the budget of a kernel counts what it says of itself, so that has to be true."""
        if kernel.shared_bytes not in (None, shared_bytes):
            raise KernelError(
                f"{kernel.source}:1: a launch of {kernel} asks for {shared_bytes} bytes of dynamic shared memory; "
                f"the kernel says {kernel.shared_bytes}"
            )
        with not_counted():
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
    chosen = _representatives(_cases(pair, True)) if thorough and flavour == "thread" else None
    count = 0
    for trial in _cases(pair, thorough):
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
    registers, shared, count, left = 0, 0, 0, set(pair.kernels.symbols)
    for kernel, arch, compiled, use in compile_report(pair):
        demand_compiled(kernel, arch, compiled)
        if excess := over_budget(use, pair.kernels.budgets.get(kernel.symbol, Budget()), arch):
            raise KernelError(f"{kernel.source}:1: {kernel} uses {excess} ({arch})")
        registers, shared, count = max(registers, use.registers), max(shared, use.shared_bytes), count + 1
        left.discard(kernel.symbol)
    if left:
        raise KernelError(f"{pair.kernels.source}:1: {min(left)} is in no specialisation, so it was not compiled")
    most = f"at most {registers} registers, {shared} bytes of shared memory"
    return f"{count} compiled for {len(ARCHITECTURES)} architectures, {most}"
