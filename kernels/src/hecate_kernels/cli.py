"""`hecate kernels check` and `hecate kernels compile`: what can be proven about a pair without a GPU."""

import argparse
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from hecate_core.api import HecateError, InputError, nearest, registry
from hecate_kernels.check import Line, check_pair, compile_report, over_budget
from hecate_kernels.cpu_build import build
from hecate_kernels.failure import compiler_line
from hecate_kernels.nvrtc import ARCHITECTURES
from hecate_kernels.pair import Budget, CheckedPair, Kernel

_ENTRY = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(')


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def main(argv: list[str]) -> int:
    """Run a kernels command; 0 all good, 1 a check found something, 2 wrong input."""
    try:
        return _run(argv)
    except HecateError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)


def _run(argv: list[str]) -> int:
    parser = _Parser("hecate kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    check = commands.add_parser("check", help="numbers, schedules, AddressSanitizer, racecheck, compile")
    check.add_argument("what", nargs="*", metavar="PLUGIN|PATH", help="pair, distribution, .py or .cu; default: all")
    check.add_argument("--thorough", action="store_true", help="the full product of cases")
    compiling = commands.add_parser("compile", help="registers, spills and shared memory, without a GPU")
    compiling.add_argument("what", nargs="*", metavar="PLUGIN|PATH")
    compiling.add_argument("--arch", default="all", help=f"all, or one of {', '.join(ARCHITECTURES)}")
    given = parser.parse_args(argv)
    if given.command == "check":
        return _check(given.what, given.thorough)
    return _compile(given.what, given.arch)


def _check(what: list[str], thorough: bool) -> int:
    sources = [Path(one) for one in what if one.endswith(".cu")]
    pairs = find_pairs([one for one in what if not one.endswith(".cu")]) if len(sources) < len(what) or not what else {}
    good = True
    for line in _lines(sources, pairs, thorough):
        print(line, flush=True)
        good &= line.good
    return 0 if good else 1


def _lines(sources: list[Path], pairs: dict[str, CheckedPair], thorough: bool) -> Iterator[Line]:
    for source in sources:
        yield _bare_source(source)
    for name, pair in pairs.items():
        yield from check_pair(name, pair, thorough)


def _bare_source(source: Path) -> Line:
    """A `.cu` without a pair says nothing about its arguments: it can only be compiled."""
    try:
        found = entry_points(source)
        for kernel in found:
            build(kernel, "plain")
        return Line(source.name, "compile", True, f"host: {', '.join(kernel.symbol for kernel in found)}")
    except HecateError as error:
        return Line(source.name, "compile", False, str(error))


def entry_points(source: Path) -> list[Kernel]:
    """The kernels a `.cu` defines; InputError where it cannot be read or has none."""
    try:
        symbols = _ENTRY.findall(source.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read ({error.__class__.__name__}); expected a .cu file") from error
    if not symbols:
        raise InputError(f'{source}:1: no kernel; expected extern "C" __global__ void NAME(...)')
    return [Kernel(source, symbol) for symbol in symbols]


def _compile(what: list[str], arch: str) -> int:
    if arch != "all" and arch not in ARCHITECTURES:
        raise InputError(f'--arch: "{arch}" is not supported{nearest(arch, ("all", *ARCHITECTURES))}')
    archs = ARCHITECTURES if arch == "all" else (arch,)
    good = True
    print(f"{'kernel':<44} {'arch':<8} registers  spills  shared  budget")
    for name, pair in find_pairs(what).items():
        for kernel, one, compiled in compile_report(pair, archs):
            shown = f"{name}:{kernel.symbol} " + " ".join(f"{key}={value}" for key, value in kernel.constants)
            if compiled.failed:
                print(f"{shown:<44} {one:<8} {compiler_line(compiled.log, kernel.source, 'nvrtc')}")
                good = False
                continue
            budget = pair.kernels.budgets.get(kernel.symbol, Budget())
            excess = over_budget(compiled, budget)
            good &= excess is None
            use = f"{compiled.registers:>9}  {compiled.spill_bytes:>6}  {compiled.shared_bytes:>6}"
            print(
                f"{shown:<44} {one:<8} {use}  {excess or (budget.spill_reason if compiled.spill_bytes else 'within')}",
                flush=True,
            )
    return 0 if good else 1


def find_pairs(what: list[str]) -> dict[str, CheckedPair]:
    """Pairs by name: of the registry (a pair, or all of a distribution) or of a `.py` file.

    The backends of one op mostly share source and checks, so an op is listed once, and again by the name of every pair
    with another source.
    """
    found: dict[str, CheckedPair] = {}
    for one in what or [""]:
        found.update(_from_file(Path(one)) if one.endswith(".py") else _from_registry(one))
    return found


def _from_registry(wanted: str) -> dict[str, CheckedPair]:
    known = registry()
    found: dict[str, CheckedPair] = {}
    names = known.names("pair")
    for name in names:
        component = known.find("pair", name)
        if wanted not in ("", name, component.address) and not component.origin.answers_to(wanted):
            continue
        pair = known.create("pair", component.address)
        if hasattr(pair, "trials") and hasattr(pair, "kernels"):
            first = found.setdefault(pair.kernels.op, pair)
            if first.kernels.source != pair.kernels.source:
                found[name] = pair
    if not found:
        raise InputError(f'kernel pair "{wanted}" is not installed{nearest(wanted, names)}')
    return found


def _from_file(path: Path) -> dict[str, CheckedPair]:
    spec = importlib.util.spec_from_file_location(f"hecate_checked_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"{path}: no such file; expected a Python file with pair classes")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        found = {
            name: member()
            for name, member in vars(module).items()
            if isinstance(member, type) and member.__module__ == spec.name and hasattr(member, "trials")
        }
    except Exception as error:  # a stranger's file may raise anything
        raise InputError(f"{path}: {type(error).__name__}: {error}".splitlines()[0]) from error
    if not found:
        raise InputError(f"{path}: no pair in it; a pair is a class with `kernels`, `trials` and `specialisations`")
    return found
