"""The table of rules, derived from what is registered: knobs, state, strategies, kernel pair, spec, evidence."""

import inspect
from pathlib import Path
from typing import Any

import torch
from attrs import asdict, evolve, frozen

from hecate_core.checking.validity import judged
from hecate_core.composed import ComposedRule
from hecate_core.composing import ops_of, rule_of
from hecate_core.config.reference import KNOBS
from hecate_core.errors import HecateError, InputError
from hecate_core.evidence import load_evidence, written_rules
from hecate_core.parameters import initial_params
from hecate_core.protocols import MemoryRule
from hecate_core.records import State
from hecate_core.registry import registry
from hecate_core.registry.oneline import one_line, told

HEAD = 64
"""Widths of keys and values, in channels, at which a rule's state is counted."""


@frozen
class RuleRow:
    """One registered rule at its defaults; `state_bytes` are of one row and head, in float32 at keys and values of 64.

    `knobs` maps structure, bias, retention and algorithm to registered names; a rule with a step of its own has none.
    `strategies` maps names to exact or approximate (a strategy that cannot serve the rule is left out), `ops` are those
    whose kernel pairs serve it, `spec` is relative to the specs of its distribution. `evidence` names the files of
    packed runs (see `hecate sweep --save`), of those that were asked for, in which its memory was written. Of a rule
    that cannot be made `broken` says why, in one line, and the rest is empty.
    """

    name: str
    distribution: str
    knobs: dict[str, str]
    state_bytes: int
    strategies: dict[str, str]
    ops: tuple[str, ...]
    spec: str
    evidence: tuple[str, ...] = ()
    broken: str = ""

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def catalogue(evidence: Path | None = None) -> list[RuleRow]:
    """A row per registered rule, by name; `evidence` is a folder of packed runs, CheckpointError for a damaged one.

    A rule that cannot be made is a row that says so.
    """
    files = [] if evidence is None else sorted(evidence.glob("*.json"))
    if evidence is not None and not files:
        raise InputError(f"{evidence}: holds no packed runs (*.json); expected a folder of them")
    shown = {file.stem: written_rules(load_evidence(file)) for file in files}
    rows = [_row(name) for name in registry().names("rule")]
    return [evolve(row, evidence=tuple(file for file, rules in shown.items() if row.name in rules)) for row in rows]


def broken_parts() -> list[str]:
    """One line for every strategy and knob that does not load: the table says nothing of them."""
    found = []
    for kind in ("strategy", *KNOBS):
        for name in registry().names(kind):
            try:
                registry().look(kind, name)
            except HecateError as error:
                found.append(str(error))
    return found


def _row(name: str) -> RuleRow:
    try:
        return _sound(name)
    except Exception as error:  # a stranger's rule may raise anything; its row says what
        reason = one_line(str(error)) if isinstance(error, HecateError) else told(error)
        owner = registry().find("rule", name).origin.distribution
        return RuleRow(name, owner, {}, 0, {}, (), "", broken=reason)


def _verdict(rule: MemoryRule, strategy: str) -> str:
    try:
        return judged(rule, strategy)[0]
    except Exception:  # hecate: allow FL-01 -- a stranger's strategy may raise anything; it serves no rule then
        return "invalid"


def _sound(name: str) -> RuleRow:
    rule = rule_of(name)
    verdicts = {strategy: _verdict(rule, strategy) for strategy in registry().names("strategy")}
    valid = {strategy: verdict for strategy, verdict in verdicts.items() if verdict != "invalid"}
    return RuleRow(
        name=name,
        distribution=registry().find("rule", name).origin.distribution,
        knobs={knob: _called(knob, getattr(rule, knob)) for knob in KNOBS} if isinstance(rule, ComposedRule) else {},
        state_bytes=_state_bytes(rule),
        strategies=valid,
        ops=tuple(sorted({op for name in valid for op in ops_of(name, rule).values()})),
        spec=rule.spec,
    )


def _called(kind: str, knob: object) -> str:
    """The name under which a knob's class is registered; the class's own where nobody did."""
    for name in registry().names(kind):
        try:
            factory = registry().component(kind, name)
        except HecateError:  # said by `broken_parts`
            continue
        if factory is type(knob) or (not inspect.isclass(factory) and type(factory()) is type(knob)):
            return name
    return type(knob).__name__


def _state_bytes(rule: MemoryRule) -> int:
    params = initial_params(rule, {"H": 1, "K": HEAD, "V": HEAD})
    state: State = rule.init_state(params, 1)
    return sum(one.numel() * torch.float32.itemsize for one in state.flat().values())


def markdown(rows: list[RuleRow]) -> list[str]:
    """The rows as a Markdown table."""
    head = [
        "rule", "of", "structure x bias x retention x algorithm", "state, bytes", "exact", "approximate", "op", "spec",
        "evidence",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|--:|---|---|---|---|---|"]
    return lines + ["| " + " | ".join(_cells(row)) + " |" for row in rows]


def _cells(row: RuleRow) -> list[str]:
    if row.broken:
        return [row.name, row.distribution, f"broken: {row.broken}".replace("|", "/"), *[""] * 6]
    by_verdict = {
        wanted: ", ".join(name for name, verdict in row.strategies.items() if verdict == wanted)
        for wanted in ("exact", "approximate")
    }
    knobs = " x ".join(row.knobs.values()) or "a step of its own"
    ops, evidence = ", ".join(row.ops) or "none", ", ".join(row.evidence) or "-"
    return [row.name, row.distribution, knobs, f"{row.state_bytes:,}", *by_verdict.values(), ops, row.spec, evidence]
