"""Hecate: memory rules for sequence models as plugins. Names load on first use; importing is cheap."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "CMS": ("hecate_core.cms", "CMS"),
    "MemoryLayer": ("hecate_core.memory_layer", "MemoryLayer"),
    "build": ("hecate_core.building", "build"),
    "compose": ("hecate_core.blueprint", "compose"),
    "load": ("hecate_core.run_folder", "load_run"),
    "memory": ("hecate_core.functional", "memory"),
    "observe": ("hecate_core.observing", "observe"),
    "start": ("hecate_core.starting", "start"),
}

__all__ = ["CMS", "MemoryLayer", "__version__", "build", "compose", "load", "memory", "observe", "start"]  # noqa: F822


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'hecate_core' has no attribute {name!r}")
