"""What a run is made with and on, beside its config: versions, machine, precision, the commit it was started at."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("hecate-core", "torch", "numpy", "attrs", "cattrs", "einops", "pluggy", "safetensors")
GIT_SECONDS = 10  # a folder on a dead network mount must not keep a run from starting


def versions() -> dict[str, str]:
    """Python and every library whose code a run goes through."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return {**found, "torch": torch.__version__}  # with the build's own tail: +cpu, +cu130


def machine() -> dict[str, Any]:
    """Processor, cores and system; the accelerator's name where one is in use."""
    found: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def precision() -> dict[str, Any]:
    """Settings of torch that change numbers."""
    return {
        "float32_matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def commit(folder: Path | str = ".") -> dict[str, Any]:
    """`commit` of the git checkout around a folder and whether it is `dirty`; both None where there is none."""

    def git(*words: str) -> str | None:
        try:
            ran = subprocess.run(  # hecate: allow FL-11 -- no library reads a checkout; without git both are None
                ["git", *words], cwd=folder, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return ran.stdout.strip() if ran.returncode == 0 else None

    found = git("rev-parse", "HEAD")
    status = None if found is None else git("status", "--porcelain")
    return {"commit": found, "dirty": None if status is None else bool(status)}


def processor() -> str:
    """The processor's name as the system tells it, else its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, platform.machine())
