"""Plugins in two stages: who is there (metadata), then each one's module alone; classes on first use."""

from hecate_core.registry.discovery import Disabled, discover
from hecate_core.registry.lookup import Recording, Registry, UsedPlugin, install, registry
from hecate_core.registry.origin import Component, Origin, Plugin, PluginState

__all__ = [
    "Component",
    "Disabled",
    "Origin",
    "Plugin",
    "PluginState",
    "Recording",
    "Registry",
    "UsedPlugin",
    "discover",
    "install",
    "registry",
]
