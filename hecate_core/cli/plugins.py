"""`hecate plugins`: what is installed, in which state, and what it provides."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from hecate_core.cli.output import Output
from hecate_core.errors import InputError, nearest
from hecate_core.hooks import KINDS
from hecate_core.registry import Component, Plugin, Registry, registry

Words = Annotated[
    list[str] | None, Argument(metavar="[show NAME | table]", help="One plugin or component; a table of all rules.")
]
Evidence = Annotated[
    Path | None, Option("--evidence", metavar="FOLDER", help="With table: packed runs; names those of every rule.")
]


def plugins(output: Output, words: Words = None, evidence: Evidence = None) -> None:
    """List the installed plugins, show one plugin or component, or print the table of rules."""
    if evidence is not None and words != ["table"]:
        raise InputError("hecate plugins: --evidence goes with table; expected hecate plugins table --evidence FOLDER")
    found = registry()
    for remark in found.remarks:
        output.note(remark)
    if not words:
        _list(output, found.plugins())
    elif words[0] == "show" and len(words) == 2:
        _show(output, found, words[1])
    elif words == ["table"]:
        _table(output, evidence)
    else:
        raise InputError(
            f'hecate plugins: "{" ".join(words)}" is not understood; expected nothing, show NAME, or table'
        )


def _list(output: Output, found: Iterable[Plugin]) -> None:
    records = [plugin.record() for plugin in found]
    output.result("hecate.plugins/1", {"plugins": records}, [_line(plugin) for plugin in found])
    if output.debug:
        _traces(output, found)


def _traces(output: Output, found: Iterable[Plugin]) -> None:
    for plugin in found:
        if plugin.trace:
            output.note(f"{plugin.origin}:\n{plugin.trace}")


def _line(plugin: Plugin) -> str:
    """One line for a plugin: who, which version, state, and the reason or what it provides."""
    origin = plugin.origin
    return f"{origin} {origin.version}  {plugin.state}: {plugin.reason or _provides(plugin.components)}"


def _provides(components: Iterable[Component]) -> str:
    names: dict[str, list[str]] = {}
    for component in components:
        names.setdefault(component.kind, []).append(component.name)
    return "; ".join(f"{kind} {', '.join(names[kind])}" for kind in KINDS if kind in names)


def _show(output: Output, found: Registry, name: str) -> None:
    chosen = [plugin for plugin in found.plugins() if plugin.origin.answers_to(name)]
    components = [one for plugin in chosen for one in plugin.components] or _called(found, name)
    if not chosen and not components:
        raise InputError(f'"{name}" is neither a plugin nor a component{_hint(found, name)}')
    lines = [_line(plugin) for plugin in chosen]
    lines += [f"  {one.kind} {one.address} = {one.target}" for one in components]
    records: dict[str, Any] = {
        "plugins": [plugin.record() for plugin in chosen],
        "components": [_record(one) for one in components],
    }
    output.result("hecate.plugin/1", records, lines)
    if output.debug:
        _traces(output, chosen)


def _hint(found: Registry, name: str) -> str:
    """The plugin that may be meant; a component only where it is all but spelt right, since there are so many."""
    meant = nearest(name, {one.name for one in _all(found)}, cutoff=0.8)
    return meant if "did you mean" in meant else nearest(name, {one.origin.distribution for one in found.plugins()})


def _table(output: Output, evidence: Path | None) -> None:
    from hecate_core.checking.catalogue import broken_parts, catalogue, markdown

    rows = catalogue(evidence)
    for line in broken_parts():
        output.note(line)
    output.result("hecate.rules/1", {"rules": [row.record() for row in rows]}, markdown(rows))


def _record(component: Component) -> dict[str, str]:
    origin = component.origin
    return {
        "kind": component.kind,
        "name": component.name,
        "address": component.address,
        "target": component.target,
        "distribution": origin.distribution,
        "version": origin.version,
    }


def _all(found: Registry) -> list[Component]:
    return [component for plugin in found.plugins() for component in plugin.components]


def _called(found: Registry, name: str) -> list[Component]:
    return [component for component in _all(found) if name in (component.name, component.address)]
