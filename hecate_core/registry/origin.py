"""What is known about a plugin: where it comes from, what became of it, what it provides."""

import re
from enum import StrEnum
from typing import Any

from attrs import field, frozen


def canonical(distribution: str) -> str:
    """A distribution's name as PEP 503 compares it: `Acme_Rules` is `acme-rules`."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@frozen(order=True)
class Origin:
    """Where a plugin comes from; known from metadata alone, nothing is imported for it."""

    distribution: str  # canonical name
    version: str
    entry_point: str
    module: str

    def __str__(self) -> str:
        return f"{self.distribution}/{self.entry_point}"

    def answers_to(self, name: str) -> bool:
        """Whether `name` addresses this plugin: distribution, entry point, or `distribution/entry-point`."""
        distribution, slash, entry_point = name.partition("/")
        if slash:
            return canonical(distribution) == self.distribution and entry_point == self.entry_point
        return canonical(name) == self.distribution or name == self.entry_point


@frozen(order=True)
class Component:
    """One thing that a plugin provides: `target` is `"module:Class"`, imported on first use."""

    kind: str
    name: str
    target: str
    origin: Origin

    @property
    def address(self) -> str:
        """The name that nobody else can take: `distribution:name`."""
        return f"{self.origin.distribution}:{self.name}"


class PluginState(StrEnum):
    """What became of a plugin; only `ok` and `conflict` provide anything."""

    OK = "ok"
    DISABLED = "disabled"  # by config, environment or --no-plugins; its module was not imported
    CONFLICT = "conflict"  # loaded, but shares a name; `distribution:name` still works
    BROKEN = "broken"
    INCOMPATIBLE = "incompatible"  # written for another version of the plugin contract


@frozen
class Plugin:
    """A plugin with its state, the reason for it in one line ("" when ok) and what it provides.

    `trace` is the traceback behind a reason, for its author.
    """

    origin: Origin
    state: PluginState
    reason: str = ""
    components: tuple[Component, ...] = ()
    trace: str = field(default="", eq=False, repr=False)

    @property
    def line(self) -> str:
        """The one line that says what is wrong, or that all is well."""
        return f'plugin "{self.origin}" is {self.state}' + (f": {self.reason}" if self.reason else "")

    def record(self) -> dict[str, Any]:
        """This plugin as plain JSON values."""
        return {
            "distribution": self.origin.distribution,
            "version": self.origin.version,
            "entry_point": self.origin.entry_point,
            "module": self.origin.module,
            "state": str(self.state),
            "reason": self.reason,
            "components": [{"kind": c.kind, "name": c.name, "target": c.target} for c in self.components],
        }
