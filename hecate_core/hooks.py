"""The door through which every component comes in, core's own included.

A distribution names a plugin module in its metadata (`[project.entry-points.hecate]`). That module
imports this one, imports no torch, and hands over names and import paths:

    from hecate_core.hooks import hookimpl

    @hookimpl
    def hecate_components():
        return [("rule", "delta", "acme_rules.delta:DeltaRule")]

The class behind a path is imported when somebody first asks for it. A module that was written for
another version of this contract says so with `HECATE_API = 2`; without the name it means version 1.
"""

import pluggy

PROJECT = "hecate"

ENTRY_POINTS = "hecate"  # the entry point group of plugin modules

COMMANDS = "hecate.commands"  # the entry point group of further CLI commands

API_VERSION = 1
"""The version of this contract; a plugin module with another `HECATE_API` is incompatible."""

KINDS = (
    "rule",
    "structure",
    "bias",
    "retention",
    "algorithm",
    "strategy",
    "composition",
    "pair",
    "optimizer",
    "task",
    "sink",
)
"""What a component can be."""

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin module as its answer to the hook of the same name."""

hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def hecate_components() -> list[tuple[str, str, str]]:
    """Hand over `(kind, name, "module:Class")` for every component of this plugin.

    `kind` is one of `KINDS`; `name` is lower case (letters, digits, `-`, `_`, `.`) and unique per kind
    inside the distribution. The class or factory takes keyword options only, each with a default.
    """
    raise NotImplementedError("a specification; plugin modules implement it")
