"""Hecate: memory rules for sequence models as plugins. Names load on first use; importing is cheap."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "memory": "hecate_core.functional",
    "MemoryLayer": "hecate_core.memory_layer",
    "compose": "hecate_core.blueprint",
}

__all__ = ["MemoryLayer", "__version__", "compose", "memory"]  # noqa: F822


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hecate_core' has no attribute {name!r}")
