"""Compiles kernels for the host backend with the system's C++ compiler, in a folder keyed by text and flags.

Four builds of one text: `library` (loaded into Python), and programs of their own: `plain`, `address`
(AddressSanitizer, and accesses checked for their alignment) and `thread` (ThreadSanitizer with its fiber API:
racecheck).
"""

import os
import platform
import re
import shutil
import signal
from functools import cache
from pathlib import Path

from hecate_kernels import child
from hecate_kernels.cache import cache_folder, is_whole, publish, workspace
from hecate_kernels.failure import (
    ENTRIES,
    BackendMissingError,
    KernelError,
    MachineError,
    compiler_line,
    lacking_part,
    refusal,
)
from hecate_kernels.flatten import DEVICE, RUNNER, digest, flatten
from hecate_kernels.pair import Kernel

FLAVOURS = ("library", "plain", "address", "thread")
HEADERS = DEVICE / "hecate" / "host_headers.cuh"
COMPILE_LIMITS = child.Limits(wall_s=120, cpu_s=90, memory_mib=8192)
PROBE_LIMITS = child.Limits(wall_s=20, cpu_s=10)

_COMMON = ["-std=gnu++17", "-g1", "-fPIC", "-fno-exceptions", "-Wno-unknown-pragmas", "-Wno-attributes", "-w"]
# Compiling is most of what short cases cost, and a faster build of a kernel hardly runs faster: threads that take turns
# are what its time goes to. AddressSanitizer misses nothing in code as it is written.
_FLAVOUR = {
    "library": ["-O1"],
    "plain": ["-O1"],
    "address": ["-O0", "-fsanitize=address", "-fsanitize=alignment", "-fno-sanitize-recover=alignment"],
    "thread": ["-Og", "-fsanitize=thread", "--param=tsan-distinguish-volatile=1"],
}
# The runner's own copies must stay loops: as calls, a sanitizer would count them as the kernel's.
_RUNNER_FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fno-tree-loop-distribute-patterns", "-g1"]

_TAIL = """
#line 1 "{file}"
extern const hecate_host::NamedEntry hecate_entries[];
const hecate_host::NamedEntry hecate_entries[] = {{
    {{"{symbol}", [](void** arguments) {{ hecate_host::unpack({symbol}, arguments); }}}}, {{nullptr, nullptr}}}};
extern "C" __attribute__((visibility("default"))) void hecate_entry(void** arguments) {{
    hecate_host::unpack({symbol}, arguments);
}}
"""


def build(kernel: Kernel, flavour: str = "library") -> Path:
    """The built library or program of a kernel, compiled on first use.

    Raises BackendMissingError where there is no compiler or no x86-64 Linux, MachineError where the disk refuses,
    KernelError with `file:line` for a source that does not compile.
    """
    compiler = find_compiler()
    text = flatten(kernel.source) + _TAIL.format(symbol=kernel.symbol, file=ENTRIES)
    command = [compiler, *_COMMON, *_FLAVOUR[flavour], *_machine_flags()]
    constants = [f"-D{name}={value}" for name, value in kernel.constants]
    name = digest(*command, _version(compiler), text, *constants, _runner_text())
    built = cache_folder() / (f"{name}.so" if flavour == "library" else name)
    if not is_whole(built):
        _compile(kernel, text, command, constants, built)
    return built


def find_compiler() -> str:
    """The C++ compiler of this machine; BackendMissingError, in one line, where the host backend cannot run."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        raise BackendMissingError(
            f'backend "host": needs x86-64 Linux, this is {platform.machine()} {platform.system()}; '
            'use backend = "reference"'
        )
    wanted = os.environ.get("CXX") or "g++"
    found = shutil.which(wanted)
    if found is None:
        raise BackendMissingError(
            f'backend "host": no C++ compiler "{wanted}"; install g++ (or set CXX), or use backend = "reference"'
        )
    _version(found)
    return found


@cache
def _version(compiler: str) -> str:
    """What a compiler calls its version; BackendMissingError for a program that is none, such as CXX=/bin/true."""
    finished = child.run([compiler, "-dM", "-E", "-x", "c++", os.devnull], PROBE_LIMITS)
    macros: dict[str, str] = dict(re.findall(r"^#define (__cplusplus|__VERSION__) (.*)$", finished.text, re.MULTILINE))
    if finished.status != 0 or "__cplusplus" not in macros:
        how = finished.excess or f"ended with status {finished.status} and named no macro"
        raise BackendMissingError(
            f'backend "host": {compiler} is no C++ compiler (asked for its macros, it {how}); '
            'install g++ (or set CXX), or use backend = "reference"'
        )
    return macros.get("__VERSION__", "")


def _compile(kernel: Kernel, text: str, command: list[str], constants: list[str], built: Path) -> None:
    objects = [_runner_object("runner.cpp")]
    linking = ["-shared"] if built.suffix == ".so" else []
    if not linking:
        objects.append(_runner_object("main.cpp"))
    sanitizers = [flag for flag in command if flag.startswith("-fsanitize")]
    with workspace("hecate-kernel-") as folder:
        source, kernel_object, result = folder / "k.cpp", folder / "k.o", folder / "k"
        source.write_text(text)
        _run([*command, *_parsed(command), *constants, "-c", str(source)], kernel_object, kernel.source)
        objects.append(kernel_object)
        _run([command[0], *_linker(), *linking, *sanitizers, *map(str, objects)], result, kernel.source)
        publish(result, built)


def _run(command: list[str], result: Path, source: Path) -> None:
    """One step of the compiler, which has to make `result`."""
    finished = child.run([*command, "-o", str(result)], COMPILE_LIMITS)
    compiler = Path(command[0]).name
    if finished.stopped:
        raise KernelError(f"{source}:1: compiling {finished.excess} and was stopped ({compiler})")
    if finished.status == 0 and result.is_file():
        return
    if reason := refusal(finished.text) or ("File too large" if finished.status == -signal.SIGXFSZ else None):
        raise MachineError(
            f"{result.parent}: {reason} ({compiler}); make room, or raise the limit on files (ulimit -f)"
        )
    if part := lacking_part(finished.text):
        raise BackendMissingError(
            f'backend "host": {part} ({compiler}); install what it names, or use backend = "reference"'
        )
    if finished.text.strip():
        raise KernelError(compiler_line(finished.text, source, compiler))
    raise BackendMissingError(
        f'backend "host": {command[0]} ended with status {finished.status}, made nothing and said nothing; '
        'install g++ (or set CXX), or use backend = "reference"'
    )


def _parsed(command: list[str]) -> list[str]:
    """Has the compiler begin with the system's headers as it read them before, a third of a small kernel's work.

    g++ reads them anew where that does not fit; of other compilers nothing is assumed.
    """
    version = _version(command[0])
    if not version.strip('"')[:1].isdigit():
        return []
    text = HEADERS.read_text()
    plain = cache_folder() / f"{digest(*command, version, text)}.hpp"
    parsed = plain.with_name(f"{plain.name}.gch")
    if not (is_whole(plain) and is_whole(parsed)):
        with workspace("hecate-headers-") as folder:
            source, result = folder / "h.hpp", folder / "h.gch"
            source.write_text(text)
            _run([*command, "-x", "c++-header", str(source)], result, HEADERS)
            publish(source, plain)
            publish(result, parsed)
    return ["-include", str(plain)]


def _runner_object(name: str) -> Path:
    compiler = find_compiler()
    flags = [*_RUNNER_FLAGS, *_machine_flags()]
    built = cache_folder() / f"{digest(compiler, _version(compiler), name, _runner_text(), *flags)}.o"
    if not is_whole(built):
        with workspace("hecate-runner-") as folder:
            result = folder / "r.o"
            _run([compiler, *flags, f"-I{RUNNER}", "-c", str(RUNNER / name)], result, RUNNER / name)
            publish(result, built)
    return built


@cache
def _runner_text() -> str:
    return "\0".join(file.read_text() for file in sorted(RUNNER.iterdir()) if file.suffix in (".cpp", ".hpp"))


@cache
def _linker() -> tuple[str, ...]:
    """The linker that takes a third of the time, where it is there."""
    return ("-fuse-ld=gold",) if shutil.which("ld.gold") else ()


@cache
def _machine_flags() -> tuple[str, ...]:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return ()
    return ("-march=x86-64-v3",) if {"avx2", "fma", "bmi2"} <= set(flags) else ()
