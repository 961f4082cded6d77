"""A `.cu` without a pair: it says nothing about its arguments, so it can only be compiled."""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hecate_kernels.check import Line
from hecate_kernels.cpu_build import build
from hecate_kernels.failure import KernelError
from hecate_kernels.flatten import DEVICE, text_of, without_comments
from hecate_kernels.nvrtc import ARCHITECTURES, require_compiler
from hecate_kernels.nvrtc_worker import Compiled
from hecate_kernels.pair import Kernel
from hecate_kernels.resources import Use, compiled_for, demand_compiled

SOURCE_CHECKS = ("build", "compile")

_ATTRIBUTES = r"(?:\s+(?:static|inline|void|__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)|__\w+__))+"
_ENTRY = re.compile(rf"\b__global__(?P<words>{_ATTRIBUTES})\s+(?P<name>\w+)\s*\(")
_INCLUDE = re.compile(r'^\s*#\s*include\s*"(?P<name>[^"]+)"', re.MULTILINE)
_TEMPLATE = re.compile(r"template\s*<[^;{}]*>\s*(?:extern\s+\"C\"\s*)?$")


def entry_points(source: Path) -> list[Kernel]:
    """The kernels that a `.cu` and the files beside it that it includes define; KernelError where there are none."""
    found: dict[str, None] = {}
    for text in _texts(source, set()):
        for one in _ENTRY.finditer(text):
            if re.search(r"\bvoid\b", one["words"]) and not _TEMPLATE.search(text[: one.start()]):
                found[one["name"]] = None
    if not found:
        raise KernelError(f'{source}:1: no kernel; expected extern "C" __global__ void NAME(...)')
    return [Kernel(source, symbol) for symbol in found]


def _texts(file: Path, seen: set[Path]) -> Iterator[str]:
    """A file without its comments, and those beside it that it includes; device headers hold no kernels."""
    seen.add(file.resolve())
    try:
        text = without_comments(text_of(file))
    except KernelError as unreadable:
        raise KernelError(f"{file}:1: {unreadable}") from unreadable
    yield text
    for include in _INCLUDE.finditer(text):
        beside = (file.parent / include["name"]).resolve()
        if beside.is_file() and beside not in seen and DEVICE not in beside.parents:
            yield from _texts(beside, seen)


def check_source(name: str, source: Path, checks: Sequence[str]) -> Iterator[Line]:
    """A line per check: the system's C++ compiler, a build for each kernel, and NVRTC for every architecture."""
    steps = {"build": functools.partial(_builds, source), "compile": functools.partial(_compiles, source)}
    for check in checks:
        yield Line.of(name, check, steps[check], source)


def source_report(source: Path, archs: Iterable[str] = ARCHITECTURES) -> Iterator[tuple[Kernel, str, Compiled, Use]]:
    """As `compile_report`, of every kernel as it stands, without constants; what launches ask for nobody knows."""
    kernels = entry_points(source)
    require_compiler()
    for arch in archs:
        for kernel, compiled in compiled_for(arch, kernels):
            yield kernel, arch, compiled, Use.of(compiled, None)


def _builds(source: Path) -> str:
    kernels = entry_points(source)
    for kernel in kernels:
        build(kernel, "plain")
    return f"host: {', '.join(kernel.symbol for kernel in kernels)}"


def _compiles(source: Path) -> str:
    registers, count = 0, 0
    for kernel, arch, compiled, use in source_report(source):
        demand_compiled(kernel, arch, compiled, by_name=False)
        registers, count = max(registers, use.registers), count + 1
    return f"{count} compiled for {len(ARCHITECTURES)} architectures, at most {registers} registers"
