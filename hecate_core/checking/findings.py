"""`hecate check`: the conformance kit and dry runs over a config, one rule, or everything registered.

One engine for all of it (`hecate_core.testing.engine`): a result is a list of checks with names and reasons.
"""

from collections.abc import Callable, Iterator
from typing import Any

import attrs

from hecate_core.checking.architecture import ARCHITECTURE, ModelCase
from hecate_core.checking.cells import Row, axes, config_of, covering_rows, tiny, worded
from hecate_core.checking.dry_run import DRY_RUN, STILL, DryRun
from hecate_core.checking.memory import Estimate, estimate
from hecate_core.checking.ranges import Range, ranges
from hecate_core.checking.validity import OWN, Cell, validity, with_retention
from hecate_core.composing import rule_of
from hecate_core.config import Config, Reference
from hecate_core.errors import HecateError, InputError, nearest
from hecate_core.registry import registry
from hecate_core.testing import check_strategy
from hecate_core.testing.engine import Check
from hecate_core.testing.everything import check_member, check_registered, members

Watch = Callable[[str], None]
UNSEEN = (
    "whether the model learns anything: one or two steps on random symbols say nothing about loss",
    "stability over long texts: a memory may grow for thousands of tokens before it overflows",
    "the real size: width, depth, length and batch were shrunk, so limits of kernels and memory were not met",
    "other devices and precisions: all of it ran on the CPU; bounds of bfloat16 and GPU kernels have their own tests",
    "kernels: only what `backend` chooses on this machine was called",
    "what the data holds, and whether it can be read for as long as a run takes",
    "speed",
)
"""What a dry run cannot see."""


@attrs.define
class Findings:
    """Everything a check brought: checks, cells of the validity table, impossible pairs, the memory estimate."""

    checks: list[Check] = attrs.Factory(list)
    cells: list[Cell] = attrs.Factory(list)
    impossible: list[dict[str, str]] = attrs.Factory(list)
    unstable: list[dict[str, str]] = attrs.Factory(list)
    estimates: list[Estimate] = attrs.Factory(list)
    ranges: list[Range] = attrs.Factory(list)
    runs: int = 0

    @property
    def failed(self) -> list[Check]:
        """The checks that found something."""
        return [check for check in self.checks if not check.ok]

    def add(self, checks: Iterator[Check], watch: Watch | None = None) -> None:
        """Take checks in; `watch` sees the line of every failed one at once."""
        for check in checks:
            self.checks.append(check)
            if watch is not None and not check.ok:
                watch(check.line)


def check_config(config: Config, *, watch: Watch | None = None) -> Findings:
    """The kit over the members that a config names, its architecture and a dry run at a tiny size, the estimate."""
    found, small = Findings(), tiny(config)
    for kind, reference in _members(config):
        found.add(check_member(kind, reference), watch)
    name = config.model.composition.name
    found.add(ARCHITECTURE.run(name, lambda: ModelCase(small)), watch)
    found.add(DRY_RUN.run(name, lambda: DryRun(small)), watch)
    found.runs = 1
    memory = config.model.memory
    if memory is not None and memory.rule.name:
        found.cells = list(validity([memory.rule.name]))
    found.ranges = ranges(config)
    _estimate(config, found, watch)
    return found


def check_rule_everywhere(rule: str, *, watch: Watch | None = None) -> Findings:
    """The kit over one rule, a dry run in every valid cell of its own retention, and its part of the table."""
    registry().find("rule", rule)  # an unknown name is wrong input, not a finding
    found = Findings()
    found.add(check_member("rule", rule), watch)
    found.cells = list(validity([rule]))
    for cell in found.cells:
        if cell.retention == OWN and cell.verdict != "invalid":
            _dry_cell(cell, found, watch)
    return found


def check_plugin(plugin: str, *, watch: Watch | None = None) -> Findings:
    """The kit over the members of one distribution, and dry runs of its rules; InputError for an unknown one."""
    known = {one.origin.distribution for one in registry().plugins()}
    if not any(one.origin.answers_to(plugin) for one in registry().plugins()):
        raise InputError(f'hecate check: no plugin "{plugin}"{nearest(plugin, known)}')
    found = Findings()
    found.add(check_registered(plugin), watch)
    for kind, name in members(plugin):
        if kind == "rule":
            found.cells += list(validity([name]))
    for cell in found.cells:
        if cell.retention == OWN and cell.verdict != "invalid":
            _dry_cell(cell, found, watch)
    return found


def check_all(*, exhaustive: bool = False, watch: Watch | None = None) -> Findings:
    """The kit over every member, every pair of settings and every rule x strategy; `exhaustive`: every valid cell."""
    found = Findings()
    found.add(check_registered(), watch)
    strategies, rules = worded()
    for strategy in strategies:
        found.add(check_strategy(strategy, rules=rules), watch)
    rows, refused = covering_rows()
    found.impossible = [_pair(key, reason) for key, reason in refused.items()]
    for row in rows:
        _dry_row(row, found, watch)
    found.cells = list(validity())
    seen: set[tuple[str, str]] = set()
    for cell in found.cells:
        if cell.verdict == "invalid":
            continue
        pair = (cell.rule, cell.strategy)
        if exhaustive or (cell.retention == OWN and pair not in seen):
            seen.add(pair)
            _dry_cell(cell, found, watch)
    return found


def _members(config: Config) -> Iterator[tuple[str, Any]]:
    yield "composition", config.model.composition.plain()
    memory = config.model.memory
    if memory is not None:
        yield "rule", memory.rule.plain()
        yield "strategy", memory.strategy.plain()


def _pair(key: tuple[Any, ...], reason: str) -> dict[str, str]:
    values, (one, i, two, j) = axes(), key
    return {"one": f"{one} {_short(values[one][i])}", "two": f"{two} {_short(values[two][j])}", "reason": reason}


def _dry_row(row: Row, found: Findings, watch: Watch | None) -> None:
    """A free combination: that it diverges or is dead at its start is told and no fault, since nobody chose it.

    No preset narrowed its gates; and without a residual, a product with a memory that a threshold keeps at 0 is 0.
    """
    name = ", ".join(f"{axis} {_short(value)}" for axis, value in row.items())
    found.runs += 1
    for check in DRY_RUN.run(name, lambda: DryRun(config_of(row))):
        if not check.ok and ("DivergedError" in check.reason or check.reason == STILL):
            found.unstable.append({"cell": name, "reason": check.reason})
            return
        found.add(iter([check]), watch)


def _dry_cell(cell: Cell, found: Findings, watch: Watch | None) -> None:
    row: Row = {"rule": cell.rule, "strategy": cell.strategy, "composition": cell.composition}
    if cell.retention != OWN:
        row["rule"] = _with_knobs(cell)
    name = f"{cell.rule} x {cell.retention} x {cell.strategy} x {cell.composition}"
    found.runs += 1
    checks = list(DRY_RUN.run(name, lambda: DryRun(config_of(row))))
    diverged = [check for check in checks if not check.ok and "DivergedError" in check.reason]
    if diverged and cell.retention != OWN:
        found.unstable.append({"cell": name, "reason": diverged[0].reason})
        return
    found.add(iter(checks), watch)


@attrs.frozen
class _Given(Reference):
    """A rule at hand in the place where a config names one."""

    rule: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "rule":
            raise AttributeError(name)
        return getattr(self.rule, name)


def _with_knobs(cell: Cell) -> Reference:
    return _Given(cell.rule, rule=with_retention(rule_of(cell.rule), cell.retention))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + " ".join(f"{one}" if name == "name" else f"{name}={one}" for name, one in value.items()) + ")"
    return str(value)


def _estimate(config: Config, found: Findings, watch: Watch | None) -> None:
    """The estimate at the real size; a model that cannot be composed there is a finding."""
    try:
        found.estimates = estimate(config)
    except HecateError as error:
        found.add(iter([Check("model", "composes-at-its-real-size", "failed", str(error))]), watch)


def broken_plugins() -> list[str]:
    """One line for every plugin that does not load: nothing of theirs was checked."""
    return registry().complaints()
