"""The registry: every installed plugin with its state, and components by kind and name."""

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import asdict, evolve, frozen

from hecate_core.config.reference import Reference
from hecate_core.errors import HecateError, InputError, PluginError, nearest
from hecate_core.hooks import KINDS
from hecate_core.registry.discovery import OWN, Disabled, discover
from hecate_core.registry.fingerprint import Digests
from hecate_core.registry.loading import load
from hecate_core.registry.oneline import told
from hecate_core.registry.options import make
from hecate_core.registry.origin import Component, Origin, Plugin, PluginState, canonical

_NOTHING = Disabled()


@frozen(order=True)
class UsedPlugin:
    """A distribution that a run took components from, as run manifests and checkpoints record it."""

    distribution: str
    version: str
    digest: str  # SHA-256 over the files of its plugin packages

    def record(self) -> dict[str, str]:
        """This entry as plain JSON values."""
        return asdict(self)


class Registry:
    """Plugins found by metadata and loaded one by one; immutable but for the record of what was used.

    The result depends on what is installed and disabled alone, never on the order of discovery: when
    two plugins share a name, neither owns it.
    """

    def __init__(self, origins: Iterable[Origin] | None = None, disabled: Disabled | None = None) -> None:
        self.disabled = disabled = Disabled.of() if disabled is None else disabled
        self._digests = Digests()
        origins = sorted(discover() if origins is None else origins)
        loaded = [_admit(origin, disabled) for origin in origins]
        self._owners = _by_name(loaded)
        self._plugins = tuple(_with_conflicts(plugin, self._owners) for plugin in loaded)
        self._recorders: list[set[Origin]] = [set()]
        self.remarks: tuple[str, ...] = tuple(disabled.unknown(origins))

    def plugins(self) -> tuple[Plugin, ...]:
        """Every plugin that is installed, whatever became of it, sorted by origin."""
        return self._plugins

    def complaints(self) -> list[str]:
        """One line for every plugin that is broken or incompatible, and for every useless disabling."""
        states = (PluginState.BROKEN, PluginState.INCOMPATIBLE)
        return [*self.remarks, *(plugin.line for plugin in self._plugins if plugin.state in states)]

    def names(self, kind: str) -> list[str]:
        """What `kind` can be called: bare names, and `distribution:name` where a name is taken twice."""
        _check_kind(kind)
        found: list[str] = []
        for (one, name), owners in self._owners.items():
            if one == kind:
                found += [name] if len(owners) == 1 else [owner.address for owner in owners]
        return sorted(found)

    def find(self, kind: str, name: str) -> Component:
        """The component called `name` or `distribution:name`; its class is not imported.

        Raises InputError for a name that nobody provides or that two provide, PluginError when the
        addressed distribution is there but cannot serve.
        """
        _check_kind(kind)
        distribution, colon, bare = name.rpartition(":")
        owners = self._owners.get((kind, bare), [])
        if colon:
            owners = [owner for owner in owners if owner.origin.distribution == canonical(distribution)]
        if len(owners) == 1:
            return owners[0]
        if owners:
            raise InputError(_ambiguous(kind, name, owners))
        if colon:
            self._check_distribution(kind, name, canonical(distribution))
        raise InputError(f'{kind} "{name}" is not installed{nearest(name, self.names(kind))}{self._suspects()}')

    def component(self, kind: str, name: str) -> Any:
        """The class or factory behind a name, imported now; the plugin counts as used.

        Raises as `find` does, and PluginError when the import fails.
        """
        target = self.look(kind, name)
        for recorder in self._recorders:
            recorder.add(self.find(kind, name).origin)
        return target

    def look(self, kind: str, name: str) -> Any:
        """The class or factory behind a name, as `component`, without counting as used: to see what there is."""
        return _imported(self.find(kind, name))

    def create(self, kind: str, reference: Any, **given: Any) -> Any:
        """A component made from a reference: a name, or a mapping with `name` and options.

        `given` are options that the caller sets. Raises InputError for an unknown option (with the
        nearest name), for a value of the wrong type and for an option set twice.
        """
        parsed = Reference.of(reference)
        prefix = f"{parsed.place}: " if parsed.place else ""
        try:
            factory = self.component(kind, parsed.name)
        except HecateError as error:
            raise type(error)(f"{prefix}{error}") from error
        return make(kind, factory, parsed, given)

    def used(self) -> tuple[UsedPlugin, ...]:
        """Every distribution that a component was taken from since this registry was made."""
        return _used(self._recorders[0], self._digests)

    @contextlib.contextmanager
    def recording(self) -> Iterator["Recording"]:
        """Note what is used inside the block alone: the plugins of one model, not of the process; core always is."""
        origins = {one.origin for one in self._plugins if one.origin.distribution == OWN and one.components}
        self._recorders.append(origins)
        try:
            yield Recording(origins, self._digests)
        finally:
            self._recorders = [recorder for recorder in self._recorders if recorder is not origins]

    def demand(self, records: Iterable[Mapping[str, str]]) -> list[str]:
        """Check that the plugins of a manifest are here; a line for each whose files have changed.

        Raises PluginError for one that is missing or cannot serve.
        """
        changed: list[str] = []
        for record in records:
            wanted = UsedPlugin(record["distribution"], record["version"], record["digest"])
            mine = [plugin for plugin in self._plugins if plugin.origin.distribution == wanted.distribution]
            serving = [plugin.origin for plugin in mine if plugin.components]
            if not mine:
                raise PluginError(f"plugin {wanted.distribution} {wanted.version} is needed but not installed")
            if not serving:
                raise PluginError(f"plugin {wanted.distribution} {wanted.version} is needed; {mine[0].line}")
            (here,) = _used(serving, self._digests)
            if here.version != wanted.version or here.digest != wanted.digest:
                changed.append(
                    f"plugin {wanted.distribution} {wanted.version} (digest {wanted.digest[:12]}) was used; "
                    f"installed is {here.version} (digest {here.digest[:12]})"
                )
        return changed

    def _check_distribution(self, kind: str, name: str, distribution: str) -> None:
        """Say why an addressed distribution cannot serve, if that is the reason."""
        mine = [plugin for plugin in self._plugins if plugin.origin.distribution == distribution]
        for plugin in mine:
            if not plugin.components:
                raise PluginError(f'{kind} "{name}" is needed, but {plugin.line}')
        if not mine:
            known = {plugin.origin.distribution for plugin in self._plugins}
            raise InputError(f'{kind} "{name}": no plugin "{distribution}" is installed{nearest(distribution, known)}')

    def _suspects(self) -> str:
        """The plugins that might have provided a missing name."""
        lost = [plugin for plugin in self._plugins if not plugin.components]
        return f" (without {', '.join(f'{plugin.origin}: {plugin.state}' for plugin in lost)})" if lost else ""


class Recording:
    """What was used inside a `Registry.recording()` block; readable during and after it."""

    def __init__(self, origins: set[Origin], digests: Digests) -> None:
        self._origins, self._digests = origins, digests

    def used(self) -> tuple[UsedPlugin, ...]:
        """Every distribution that a component was taken from in the block."""
        return _used(self._origins, self._digests)


_default: list[Registry] = []


def registry() -> Registry:
    """The registry of this process, made at first use."""
    if not _default:
        _default.append(Registry())  # hecate: allow FL-06 -- one registry per process, made once
    return _default[0]


def install(disable: Sequence[str] = (), *, place: str = "config", strangers: bool | None = None) -> Registry:
    """Make the process registry anew without some plugins, before anything of theirs is imported.

    `disable` names distributions, entry points or `distribution/entry-point`; `strangers=False` leaves
    core alone (`--no-plugins`), None keeps what was said before. `HECATE_DISABLE_PLUGINS` is heard as
    well. Nothing happens where the present registry leaves out the same plugins.
    """
    if strangers is None:
        strangers = not (_default and _default[0].disabled.strangers)
    disabled = Disabled.of(disable, place=place, strangers=not strangers)
    if not _default or _default[0].disabled != disabled:
        _default[:] = [Registry(disabled=disabled)]
    return _default[0]


def _admit(origin: Origin, disabled: Disabled) -> Plugin:
    reason = disabled.reason(origin)
    return Plugin(origin, PluginState.DISABLED, reason) if reason else load(origin)


def _by_name(plugins: Iterable[Plugin]) -> dict[tuple[str, str], list[Component]]:
    owners: dict[tuple[str, str], list[Component]] = {}
    for plugin in plugins:
        for component in plugin.components:
            owners.setdefault((component.kind, component.name), []).append(component)
    return owners


def _with_conflicts(plugin: Plugin, owners: Mapping[tuple[str, str], list[Component]]) -> Plugin:
    """The plugin, marked when another one shares a name with it; both are."""
    shared = [c for c in plugin.components if len(owners[c.kind, c.name]) > 1]
    if not shared:
        return plugin
    first = shared[0]
    others = [str(c.origin) for c in owners[first.kind, first.name] if c.origin != plugin.origin]
    more = f" (and {len(shared) - 1} more names)" if len(shared) > 1 else ""
    reason = f'{first.kind} "{first.name}" is also provided by {", ".join(others)}{more}; write "{first.address}"'
    return evolve(plugin, state=PluginState.CONFLICT, reason=reason)


def _ambiguous(kind: str, name: str, owners: Sequence[Component]) -> str:
    addresses = sorted({owner.address for owner in owners})
    whose = " and ".join(str(owner.origin) for owner in owners)
    if len(addresses) == 1:
        return f'{kind} "{name}" is provided by {whose}; disable one of these entry points'
    return f'{kind} "{name}" is provided by {whose}; write {" or ".join(map(repr, addresses))}'


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise InputError(f'"{kind}" is not a kind of component{nearest(kind, KINDS)}')


def _imported(component: Component) -> Any:
    """The object behind `"module:Class"`; a stranger's failure becomes a PluginError of one line."""
    place = f'plugin "{component.origin}": {component.kind} "{component.name}"'
    path, _, attributes = component.target.partition(":")
    try:
        found: Any = importlib.import_module(path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's module may raise anything
        raise PluginError(f"{place} failed to import {path}: {told(error)}") from error
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise PluginError(f'{place}: {path} has no "{attributes}"{nearest(attribute, _public(found))}')
        found = getattr(found, attribute)
    if not callable(found):
        raise PluginError(f"{place}: {component.target} is a {type(found).__name__}; expected a class or factory")
    return found


def _public(scope: object) -> list[str]:
    return [name for name in dir(scope) if not name.startswith("_")]


def _used(origins: Iterable[Origin], digests: Digests) -> tuple[UsedPlugin, ...]:
    modules: dict[tuple[str, str], set[str]] = {}
    for origin in origins:
        modules.setdefault((origin.distribution, origin.version), set()).add(origin.module)
    return tuple(sorted(UsedPlugin(*key, digests.of(sorted(names))) for key, names in modules.items()))
