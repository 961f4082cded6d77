"""`hecate doctor`: versions, device, compiler and plugins, a line each."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

from attrs import asdict, frozen

from hecate_core.cli.output import Output
from hecate_core.errors import ExitCode
from hecate_core.registry import PluginState, registry
from hecate_core.registry.oneline import one_line, told

COMPILERS = ("c++", "g++", "clang++")
ABSENT = "(not installed)"
PACKAGES = ("attrs", "cattrs", "einops", "pluggy", "rich", "safetensors", "typer")


@frozen
class Finding:
    """One line of the examination: `state` is "ok", "absent" (and not needed) or "wrong"."""

    name: str
    state: str
    detail: str


def doctor(output: Output) -> int:
    """Examine the installation: versions, device, compiler, plugins."""
    findings = list(_examine())
    width = max(len(finding.name) for finding in findings)
    lines = [f"{finding.name:<{width}}  {finding.state:<6}  {finding.detail}" for finding in findings]
    output.result("hecate.findings/1", {"findings": [asdict(finding) for finding in findings]}, lines)
    return ExitCode.FOUND if any(finding.state == "wrong" for finding in findings) else ExitCode.DONE


def _examine() -> Iterator[Finding]:
    yield Finding("hecate-core", "ok", _version("hecate-core"))
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Finding("system", "ok", f"{platform.platform()}, {os.cpu_count()} cores")
    yield from _torch()
    yield Finding("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    yield _compiler()
    yield _nvrtc()
    yield from _backend()
    yield from _plugins()


def _torch() -> Iterator[Finding]:
    """torch and the device that it sees; a torch that does not load is a finding."""
    try:
        import torch
    except Exception as error:
        yield Finding("torch", "wrong", f"does not load: {told(error)}")
        return
    yield Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        yield Finding("device", "absent", f"no CUDA device (torch built for {torch.version.cuda or 'the CPU'})")
        return
    for index in range(torch.cuda.device_count()):
        name, (major, minor) = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        yield Finding("device", "ok", f"cuda:{index} {name}, compute capability {major}.{minor}")


def _compiler() -> Finding:
    """A C++ compiler: kernels are run on the CPU through it."""
    for name in (os.environ.get("CXX", ""), *COMPILERS):
        path = shutil.which(name) if name else None
        if path is not None:
            return Finding("compiler", "ok", f"{_first_line(path)} ({path})")
    return Finding("compiler", "absent", f"none of {', '.join(COMPILERS)}; kernels cannot be run on the CPU")


def _first_line(path: str) -> str:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return told(error)
    return one_line((answer.stdout or answer.stderr).partition("\n")[0])


def _nvrtc() -> Finding:
    versions = {name: _version(name) for name in ("cuda-core", "nvidia-cuda-nvrtc")}
    missing = [name for name, version in versions.items() if version == ABSENT]
    if missing:
        return Finding("nvrtc", "absent", f"{missing[0]} is not installed; kernels are not compiled for a GPU")
    return Finding("nvrtc", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _backend() -> Iterator[Finding]:
    """What `backend = "auto"` takes here, and why not kernels where it does not."""
    try:
        import torch

        from hecate_core.backends import automatic

        chosen = automatic(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    except Exception as error:  # whatever a stranger's pair or a torch that does not load may raise
        yield Finding("backend", "wrong", told(error))
        return
    yield Finding("backend", "ok", f"auto takes {chosen.runs} ({chosen.reason})")


def _plugins() -> Iterator[Finding]:
    found = registry()
    for plugin in found.plugins():
        wrong = plugin.state in (PluginState.BROKEN, PluginState.INCOMPATIBLE, PluginState.CONFLICT)
        detail = plugin.reason or f"{len(plugin.components)} components"
        yield Finding(
            f"plugin {plugin.origin}", "wrong" if wrong else "ok", f"{plugin.origin.version}, {plugin.state}: {detail}"
        )
    for remark in found.remarks:
        yield Finding("plugins", "wrong", remark)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ABSENT
