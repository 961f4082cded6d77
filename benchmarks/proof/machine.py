"""The card, the driver and the versions, and the clocks as they were found."""

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("torch", "triton", "fla-core", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "hecate-kernels")
ASKED = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit",
         "temperature.gpu", "persistence_mode")  # fmt: skip


def missing() -> str | None:
    """Why nothing can be proven here, or None."""
    from hecate_kernels.launch import lacking

    return lacking("nvrtc")


def versions() -> dict[str, str]:
    """Installed versions of everything that a figure depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {**found, "torch": torch.__version__, "cuda": str(torch.version.cuda)}


def card() -> dict[str, Any]:
    """What nvidia-smi says of the current card, and its compute capability; empty without a card."""
    if not torch.cuda.is_available():
        return {}
    major, minor = torch.cuda.get_device_capability()
    found: dict[str, Any] = {"name": torch.cuda.get_device_name(), "capability": f"{major}.{minor}"}
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return found
    place = str(torch.cuda.current_device())
    command = [tool, f"--id={place}", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return found
    values = [value.strip() for value in answer.strip().split(",")]
    return found | (dict(zip(ASKED, values, strict=True)) if len(values) == len(ASKED) else {})
