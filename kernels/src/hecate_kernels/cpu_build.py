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
from hecate_kernels.flatten import RUNNER, digest, flatten
from hecate_kernels.pair import Kernel

FLAVOURS = ("library", "plain", "address", "thread")
COMPILE_LIMITS = child.Limits(wall_s=120, cpu_s=90, memory_mib=8192)
PROBE_LIMITS = child.Limits(wall_s=20, cpu_s=10)

_COMMON = ["-std=gnu++17", "-g1", "-fPIC", "-fno-exceptions", "-Wno-unknown-pragmas", "-Wno-attributes", "-w"]
# AddressSanitizer misses nothing in code as it is written, and compiling is most of what its short cases cost.
_FLAVOUR = {
    "library": ["-O2"],
    "plain": ["-O1"],
    "address": ["-O0", "-fsanitize=address", "-fsanitize=alignment", "-fno-sanitize-recover=alignment"],
    "thread": ["-O1", "-fsanitize=thread", "--param=tsan-distinguish-volatile=1"],
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
    flags = [
        *_COMMON,
        *_FLAVOUR[flavour],
        *_machine_flags(),
        *(f"-D{name}={value}" for name, value in kernel.constants),
    ]
    name = digest(compiler, _version(compiler), text, *flags, _runner_text())
    built = cache_folder() / (f"{name}.so" if flavour == "library" else name)
    if not is_whole(built):
        _compile(kernel, text, [compiler, *flags], built)
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


def _compile(kernel: Kernel, text: str, command: list[str], built: Path) -> None:
    objects = [_runner_object("runner.cpp")]
    linking = ["-shared"] if built.suffix == ".so" else []
    if not linking:
        objects.append(_runner_object("main.cpp"))
    sanitizers = [flag for flag in command if flag.startswith("-fsanitize")]
    with workspace("hecate-kernel-") as folder:
        source, kernel_object, result = folder / "k.cpp", folder / "k.o", folder / "k"
        source.write_text(text)
        _run([*command, "-c", str(source)], kernel_object, kernel.source)
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
