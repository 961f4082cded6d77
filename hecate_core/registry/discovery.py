"""The first stage: who claims to be a plugin, by metadata alone. Nothing is imported."""

import os
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata

from attrs import frozen

from hecate_core.errors import nearest
from hecate_core.hooks import ENTRY_POINTS
from hecate_core.registry.origin import Origin, canonical

OWN = "hecate-core"  # the distribution that --no-plugins leaves in
ENVIRONMENT = "HECATE_DISABLE_PLUGINS"


def discover(path: list[str] | None = None, group: str = ENTRY_POINTS) -> list[Origin]:
    """Every plugin that metadata on `path` (default `sys.path`) names, sorted.

    A distribution found twice counts once: the first folder on the path wins, as for an import, and
    inside one folder the highest version string. The order of a directory listing changes nothing.
    """
    path = sys.path if path is None else path
    section = f"[{group}]"
    claimants = {
        _name(distribution)
        for distribution in metadata.distributions(path=path)
        if section in (distribution.read_text("entry_points.txt") or "")
    }
    found: list[Origin] = []
    for name in claimants - {""}:
        found += _origins(_first(list(metadata.distributions(name=name, path=path))), name, group)
    return sorted(found)


def _name(distribution: metadata.Distribution) -> str:
    """The canonical name, or "" for a folder that only looks like a distribution."""
    try:
        return canonical(distribution.metadata["Name"])
    except Exception:  # hecate: allow FL-01 -- a stranger's damaged metadata must not stop the rest
        return ""


def _first(distributions: list[metadata.Distribution]) -> metadata.Distribution:
    folder = str(distributions[0].locate_file(""))
    beside = [one for one in distributions if str(one.locate_file("")) == folder]
    return max(beside, key=lambda one: one.version or "")


def _origins(distribution: metadata.Distribution, name: str, group: str) -> list[Origin]:
    version = distribution.version or "0"
    try:
        points = [point for point in distribution.entry_points if point.group == group]
    except Exception:  # hecate: allow FL-01 -- as above; loading it says what is wrong
        return [Origin(name, version, "entry_points.txt", "")]
    return [Origin(name, version, point.name, point.value) for point in points]


@frozen
class Disabled:
    """Who must not be imported: names by source ("config", an environment variable), or all but core.

    A name is a distribution, an entry point, or `distribution/entry-point`.
    """

    names: tuple[tuple[str, str], ...] = ()  # (name, the place that lists it)
    strangers: bool = False

    @classmethod
    def of(
        cls,
        names: Iterable[str] = (),
        *,
        place: str = "config",
        strangers: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> "Disabled":
        """Join the given names with those in `HECATE_DISABLE_PLUGINS` (separated by commas or blanks)."""
        listed = (os.environ if environment is None else environment).get(ENVIRONMENT, "")
        pairs = [(name, place) for name in names]
        pairs += [(name, ENVIRONMENT) for name in listed.replace(",", " ").split()]
        return cls(tuple(pairs), strangers)

    def reason(self, origin: Origin) -> str:
        """Why this plugin must stay out, or ""."""
        for name, place in self.names:
            if origin.answers_to(name):
                return f"by {place}"
        return "by --no-plugins" if self.strangers and origin.distribution != OWN else ""

    def unknown(self, origins: Iterable[Origin]) -> list[str]:
        """A line for every listed name that no installed plugin answers to."""
        origins = list(origins)
        known = {origin.distribution for origin in origins}
        return [
            f'{place}: plugin "{name}" is to be disabled but is not installed{nearest(name, known)}'
            for name, place in self.names
            if not any(origin.answers_to(name) for origin in origins)
        ]
