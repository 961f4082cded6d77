"""`hecate kernels check` and `hecate kernels compile`: what can be proven about a pair without a GPU."""

import argparse
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

from hecate_core.api import ExitCode, HecateError, InputError, nearest
from hecate_kernels.bare import SOURCE_CHECKS, check_source, source_report
from hecate_kernels.check import CHECKS, LAUNCH_S, THOROUGH_LAUNCH_S, Line, check_pair, limits_of
from hecate_kernels.finding import Subject, subjects
from hecate_kernels.nvrtc import ARCHITECTURES, require_compiler
from hecate_kernels.pair import Budget
from hecate_kernels.resources import Use, compile_report, demand_compiled, over_budget

_GO_ON = "; --only CHECK,... leaves it out"
_WHAT = "a pair or its op, a distribution, a folder, a .py with pairs or a .cu; default: every installed pair"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def main(argv: list[str]) -> int:
    """Run a kernels command and return its status.

    0: all good; 1: a check found something; 2: wrong input, or a tool that is not here; 3: a pair cannot be loaded;
    4: the disk refuses. What was found comes first, then what kept a check from running.
    """
    try:
        given = _parsed(argv)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except HecateError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    try:
        return int(_check(given) if given.command == "check" else _compile(given))
    except HecateError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)


def _parsed(argv: list[str]) -> argparse.Namespace:
    parser = _Parser("hecate kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    check = commands.add_parser(
        "check",
        help="numbers, schedules, AddressSanitizer, racecheck, compile",
        description="A line per check. A .cu without a pair is built for the host and compiled for every architecture; "
        "a folder means every pair and every .cu in it.",
    )
    check.add_argument("what", nargs="*", metavar="PLUGIN|PATH", help=_WHAT)
    check.add_argument("--thorough", action="store_true", help="the full product of cases")
    check.add_argument("--only", metavar="CHECK,...", default="", help=f"some of {', '.join(_checks())}; default: all")
    check.add_argument(
        "--seconds",
        type=int,
        metavar="N",
        help=f"that one launch may take; default: {LAUNCH_S}, and {THOROUGH_LAUNCH_S} with --thorough",
    )
    compiling = commands.add_parser("compile", help="registers, spills and shared memory, without a GPU")
    compiling.add_argument("what", nargs="*", metavar="PLUGIN|PATH", help=_WHAT)
    compiling.add_argument("--arch", default="all", help=f"all, or one of {', '.join(ARCHITECTURES)}")
    return parser.parse_args(argv)


def _checks() -> tuple[str, ...]:
    return (*CHECKS, *(one for one in SOURCE_CHECKS if one not in CHECKS))


def _status(lines: Iterable[ExitCode]) -> ExitCode:
    """What was found comes first, then the first reason why something did not run."""
    seen = [one for one in lines if one != ExitCode.DONE]
    return ExitCode.FOUND if ExitCode.FOUND in seen else next(iter(seen), ExitCode.DONE)


def _check(given: argparse.Namespace) -> ExitCode:
    only = [word for word in given.only.split(",") if word] or _checks()
    for word in only:
        if word not in _checks():
            raise InputError(f'--only: no check "{word}"{nearest(word, _checks())}')
    if given.seconds is not None and not 1 <= given.seconds <= 86400:
        raise InputError(f"--seconds: {given.seconds}; expected 1 to 86400")
    found: list[ExitCode] = []
    for one in subjects(given.what):
        for line in _lines(one, given, only):
            print(f"{line}{'' if line.ran or line.check == 'load' else _GO_ON}", flush=True)
            found.append(line.status)
    if not found:
        raise InputError(f"--only: {given.only} is no check of what is given; expected some of {', '.join(_checks())}")
    return _status(found)


def _lines(subject: Subject, given: argparse.Namespace, only: Sequence[str]) -> Iterator[Line]:
    if subject.broken is not None:
        yield Line(subject.name, "load", subject.broken.exit_code, str(subject.broken))
    if subject.source is not None:
        yield from check_source(subject.name, subject.source, [one for one in SOURCE_CHECKS if one in only])
    if subject.pair is not None:
        seconds = given.seconds or (THOROUGH_LAUNCH_S if given.thorough else LAUNCH_S)
        checks = [one for one in CHECKS if one in only]
        yield from check_pair(subject.name, subject.pair, given.thorough, checks, limits_of(seconds))


def _compile(given: argparse.Namespace) -> ExitCode:
    if given.arch != "all" and given.arch not in ARCHITECTURES:
        raise InputError(f'--arch: "{given.arch}" is not supported{nearest(given.arch, ("all", *ARCHITECTURES))}')
    archs = ARCHITECTURES if given.arch == "all" else (given.arch,)
    meant = subjects(given.what)
    require_compiler()
    print(f"{'kernel':<44} {'arch':<8} {'registers':>9} {'spills':>9} {'shared':>13} {'static + dynamic':<17} budget")
    found: list[ExitCode] = []
    for one in meant:
        line = Line.of(one.name, "compile", functools.partial(_rows, one, archs, found), one.pair)
        found.append(line.status)
        if not line.good:
            print(line, flush=True)
    return _status(found)


def _rows(subject: Subject, archs: Sequence[str], found: list[ExitCode]) -> str:
    """A row per kernel and architecture; one beyond its budget, or without code, is a row and no end."""
    if subject.broken is not None:
        raise subject.broken
    pair, source = subject.pair, subject.source
    report = source_report(source, archs) if source is not None else compile_report(pair, archs) if pair else ()
    for kernel, arch, compiled, use in report:
        shown = f"{subject.name}:{kernel}"
        try:
            demand_compiled(kernel, arch, compiled, by_name=pair is not None)
        except HecateError as error:
            found.append(ExitCode.FOUND)
            print(f"{shown:<44} {arch:<8} {error}", flush=True)
            continue
        budget = pair.kernels.budgets.get(kernel.symbol, Budget()) if pair is not None else None
        excess = over_budget(use, budget, arch) if budget is not None else None
        found.append(ExitCode.FOUND if excess else ExitCode.DONE)
        print(f"{shown:<44} {arch:<8} {_columns(use, budget, excess)}", flush=True)
    return "compiled"


def _columns(use: Use, budget: Budget | None, excess: str | None) -> str:
    """What is used, each beside what may be used; a source without a pair has no budget, and launches of any kind."""
    registers, spills, shared = f"{use.registers}", f"{use.spill_bytes}", f"{use.shared_bytes}"
    if budget is None:
        return f"{registers:>9} {spills:>9} {shared:>13} {f'{use.static} + ?':<17} no pair declares one"
    registers, spills = f"{registers}/{budget.registers}", f"{spills}/{budget.spill_bytes}"
    shared = f"{shared}/{budget.shared_bytes}"
    parts = f"{use.static} + {'?' if use.dynamic is None else use.dynamic}"
    verdict = f"OVER: {excess}" if excess else "within" + f": {budget.spill_reason}" * bool(use.spill_bytes)
    return f"{registers:>9} {spills:>9} {shared:>13} {parts:<17} {verdict}"
