"""How a config names a component: by a string, or by a table with `name` and options."""

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from hecate_core.errors import InputError

KNOBS = ("structure", "bias", "retention", "algorithm")
"""What a rule is made of where it is written by its knobs instead of a name."""


@frozen
class Reference:
    """A component by name (`"delta"`, `"acme-rules:delta"`) with the options for making it.

    The name is "" where a rule is written by its knobs; they are the options then.
    `place` says where it was written, for messages; two references that differ only there are equal.
    """

    name: str
    options: Mapping[str, Any] = field(factory=dict)
    place: str = field(default="", eq=False, repr=False)

    @classmethod
    def of(cls, value: Any, place: str = "") -> "Reference":
        """From a string, a mapping with `name`, or a Reference; InputError for anything else."""
        if isinstance(value, Reference):
            return value
        prefix = f"{place}: " if place else ""
        if isinstance(value, str):
            name, options = value, {}
        elif isinstance(value, Mapping):
            options = dict(value)
            name = options.pop("name", "")
        else:
            raise InputError(f"{prefix}{value!r} is no component; expected a name or a table with name = ...")
        if not isinstance(name, str) or not (name or written_by_knobs(options)):
            raise InputError(f'{prefix}a component is named by a string; expected name = "..."')
        return cls(name, options, place)

    def plain(self) -> str | dict[str, Any]:
        """As a config writes it: the bare name, or a table where there are options."""
        named = {"name": self.name} if self.name else {}
        return {**named, **self.options} if self.options else self.name


def written_by_knobs(table: Mapping[str, Any]) -> bool:
    """Whether a table without a name describes a rule: `{structure = ..., bias = ..., ...}`."""
    return "name" not in table and any(knob in table for knob in KNOBS)
