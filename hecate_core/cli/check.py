"""`hecate check`: are the parts what they claim to be, and do they work together? A dry run in one process."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from hecate_core.cli.output import Output
from hecate_core.errors import ExitCode, InputError

if TYPE_CHECKING:
    from hecate_core.checking.findings import Findings

ConfigFile = Annotated[str | None, Argument(metavar="[CONFIG]", help="A TOML file, or the name of an example (demo).")]
All = Annotated[bool, Option("--all", help="Every member, every pair of settings, every rule x strategy.")]
Rule = Annotated[str | None, Option("--rule", metavar="NAME", help="One rule, in every valid cell.")]
Exhaustive = Annotated[bool, Option("--exhaustive", help="With --all: every valid cell of the table.")]
Plugin = Annotated[str | None, Option("--plugin", metavar="DIST", help="The members of one distribution.")]
Table = Annotated[bool, Option("--table", help="Print the whole validity table as well.")]


def check(
    output: Output,
    config: ConfigFile = None,
    every: All = False,
    rule: Rule = None,
    plugin: Plugin = None,
    exhaustive: Exhaustive = False,
    table: Table = False,
) -> int:
    """Check a config, one rule, one plugin or everything: claims proved, parts composed and run tiny."""
    chosen = [
        name for name, given in (("CONFIG", config), ("--all", every), ("--rule", rule), ("--plugin", plugin)) if given
    ]
    if len(chosen) > 1:
        raise InputError(f"hecate check: {' and '.join(chosen)} exclude each other; expected one of them")
    if exhaustive and not every:
        raise InputError("hecate check: --exhaustive says how far --all goes; expected --all --exhaustive")
    import torch

    from hecate_core.checking import findings

    torch.set_num_threads(1)
    for complaint in findings.broken_plugins():
        output.note(complaint)
    if every:
        found = findings.check_all(exhaustive=exhaustive, watch=output.note)
    elif rule is not None:
        found = findings.check_rule_everywhere(rule, watch=output.note)
    elif plugin is not None:
        found = findings.check_plugin(plugin, watch=output.note)
    else:
        found = _of_config(output, config)
    output.result("hecate.checks/1", _records(found), _lines(found, table=table or rule is not None))
    return ExitCode.FOUND if found.failed else ExitCode.DONE


def _of_config(output: Output, config: str | None) -> "Findings":
    from hecate_core.checking import findings
    from hecate_core.cli.build import resolved
    from hecate_core.config import load_config
    from hecate_core.registry import install

    loaded = load_config(None if config is None else resolved(config))
    install(disable=loaded.plugins.disable)
    return findings.check_config(loaded, watch=output.note)


def _records(found: "Findings") -> dict[str, object]:
    from hecate_core.checking.findings import UNSEEN

    return {
        "checks": [check.record() for check in found.checks],
        "cells": [cell.record() for cell in found.cells],
        "impossible": found.impossible,
        "unstable": found.unstable,
        "estimates": [row.record() for row in found.estimates],
        "ranges": [row.record() for row in found.ranges],
        "unseen": list(UNSEEN),
        "runs": found.runs,
    }


def _lines(found: "Findings", *, table: bool) -> Iterator[str]:
    from hecate_core.checking.findings import UNSEEN
    from hecate_core.checking.validity import table_lines

    yield from (check.line for check in found.failed)
    if found.cells:
        yield from table_lines(found.cells) if table else ()
        yield f"cells: {_counted(cell.verdict for cell in found.cells)}"
    yield from (f"impossible: {one['one']} with {one['two']}: {one['reason']}" for one in found.impossible)
    yield from (f"unstable: {one['cell']}: {one['reason']}" for one in found.unstable)
    yield f"checks: {_counted(check.outcome for check in found.checks)}; dry runs: {found.runs}"
    yield "not seen by a dry run:"
    yield from (f"  {line}" for line in UNSEEN)
    if found.ranges:
        yield "gates of the memory:"
        yield from (f"  {row.line}" for row in found.ranges)
    if found.estimates:
        yield "memory at the real size:"
        yield from (f"  {row.line}" for row in found.estimates)


def _counted(words: Iterable[str]) -> str:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "none"
