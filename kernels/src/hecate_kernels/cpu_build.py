"""Compiles kernels for the host backend with the system's C++ compiler, in a folder keyed by text and flags.

Four builds of one text: `library` (loaded into Python), and programs of their own: `plain`, `address`
(AddressSanitizer, and accesses checked for their alignment) and `thread` (ThreadSanitizer with its fiber API:
racecheck).
"""

import hashlib
import os
import platform
import shutil
import tempfile
from functools import cache
from pathlib import Path

from hecate_kernels import child
from hecate_kernels.failure import BackendMissingError, KernelError, compiler_line
from hecate_kernels.flatten import RUNNER, digest, flatten
from hecate_kernels.pair import Kernel

FLAVOURS = ("library", "plain", "address", "thread")
COMPILE_LIMITS = child.Limits(wall_s=180, cpu_s=170, memory_mib=8192)

_COMMON = ["-std=gnu++17", "-g1", "-fPIC", "-fno-exceptions", "-Wno-unknown-pragmas", "-Wno-attributes", "-w"]
# AddressSanitizer misses nothing in code as it is written, and compiling is most of what its short cases cost.
_FLAVOUR = {
    "library": ["-O2"],
    "plain": ["-O1"],
    "address": ["-O0", "-fsanitize=address", "-fsanitize=alignment", "-fno-sanitize-recover=alignment"],
    "thread": ["-O1", "-fsanitize=thread"],
}
# The runner's own copies must stay loops: as calls, a sanitizer would count them as the kernel's.
_RUNNER_FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fno-tree-loop-distribute-patterns", "-g1"]

_TAIL = """
#line 1 "generated entries"
extern const hecate_host::NamedEntry hecate_entries[];
const hecate_host::NamedEntry hecate_entries[] = {{
    {{"{symbol}", [](void** arguments) {{ hecate_host::unpack({symbol}, arguments); }}}}, {{nullptr, nullptr}}}};
extern "C" __attribute__((visibility("default"))) void hecate_entry(void** arguments) {{
    hecate_host::unpack({symbol}, arguments);
}}
"""


def build(kernel: Kernel, flavour: str = "library") -> Path:
    """The built library or program of a kernel, compiled on first use.

    Raises BackendMissingError where there is no compiler or no x86-64 Linux, KernelError with `file:line` for
    a source that does not compile.
    """
    compiler = find_compiler()
    text = flatten(kernel.source) + _TAIL.format(symbol=kernel.symbol)
    flags = [
        *_COMMON,
        *_FLAVOUR[flavour],
        *_machine_flags(),
        *(f"-D{name}={value}" for name, value in kernel.constants),
    ]
    name = digest(compiler, text, *flags, _runner_text())
    built = cache_folder() / (f"{name}.so" if flavour == "library" else name)
    if not _is_whole(built):
        _compile(kernel, text, [compiler, *flags], built)
    return built


def cache_folder() -> Path:
    """Where builds are kept: `$HECATE_KERNEL_CACHE`, else hecate/kernels in the user's cache folder."""
    given = os.environ.get("HECATE_KERNEL_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hecate/kernels"
    base.mkdir(parents=True, exist_ok=True)
    return base


def find_compiler() -> str:
    """The C++ compiler of this machine; BackendMissingError, in one line, where the host backend cannot run."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        raise BackendMissingError(
            f'backend "host": needs x86-64 Linux, this is {platform.machine()} {platform.system()}; '
            'use backend = "reference"'
        )
    wanted = os.environ.get("CXX", "g++")
    found = shutil.which(wanted)
    if found is None:
        raise BackendMissingError(
            f'backend "host": no C++ compiler "{wanted}"; install g++ (or set CXX), or use backend = "reference"'
        )
    return found


def _compile(kernel: Kernel, text: str, command: list[str], built: Path) -> None:
    objects = [_runner_object("runner.cpp")]
    linking = ["-shared"] if built.suffix == ".so" else []
    if not linking:
        objects.append(_runner_object("main.cpp"))
    sanitizers = [flag for flag in command if flag.startswith("-fsanitize")]
    with tempfile.TemporaryDirectory(prefix="hecate-kernel-") as folder:
        source, kernel_object, result = Path(folder) / "k.cpp", Path(folder) / "k.o", Path(folder) / "k"
        source.write_text(text)
        _run([*command, "-c", str(source), "-o", str(kernel_object)], kernel.source)
        objects.append(kernel_object)
        _run([command[0], *_linker(), *linking, *sanitizers, *map(str, objects), "-o", str(result)], kernel.source)
        _publish(result, built)


def _publish(result: Path, built: Path) -> None:
    """Puts a file and its seal in place whole: several processes may build the same one."""
    seal = result.with_name("seal")
    seal.write_text(_seal(built.name, result.read_bytes()))
    for made, place in ((result, built), (seal, _seal_of(built))):
        fresh = place.with_name(f".{place.name}.{os.getpid()}")
        shutil.copy(made, fresh)
        fresh.replace(place)


def _is_whole(built: Path) -> bool:
    """Whether a build is there as it was made under this very name; damaged and foreign ones are never loaded."""
    try:
        found, seal = built.stat(), _seal_of(built).read_text()
    except (OSError, UnicodeDecodeError):
        return False
    return _fits(built, seal, found.st_mtime_ns, found.st_size)


@cache
def _fits(built: Path, seal: str, changed_ns: int, size: int) -> bool:
    """Read once per process and state of the file."""
    return seal == _seal(built.name, built.read_bytes())


def _seal(name: str, content: bytes) -> str:
    return hashlib.sha256(name.encode() + b"\0" + content).hexdigest()


def _seal_of(built: Path) -> Path:
    return built.with_name(f"{built.name}.seal")


def _run(command: list[str], source: Path) -> None:
    finished = child.run(command, COMPILE_LIMITS)
    if finished.stopped:
        raise KernelError(f"{source}:1: compiling took longer than {COMPILE_LIMITS.wall_s} s ({Path(command[0]).name})")
    if finished.status != 0:
        raise KernelError(compiler_line(finished.text, source, Path(command[0]).name))


def _runner_object(name: str) -> Path:
    compiler = find_compiler()
    flags = [*_RUNNER_FLAGS, *_machine_flags()]
    built = cache_folder() / f"{digest(compiler, name, _runner_text(), *flags)}.o"
    if not _is_whole(built):
        with tempfile.TemporaryDirectory(prefix="hecate-runner-") as folder:
            result = Path(folder) / "r.o"
            _run([compiler, *flags, f"-I{RUNNER}", "-c", str(RUNNER / name), "-o", str(result)], RUNNER / name)
            _publish(result, built)
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
