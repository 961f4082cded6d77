"""`hecate report`: what runs did and what every level of their memory does, in one HTML file."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from hecate_core import files
from hecate_core.blueprint import levels_in
from hecate_core.checking.validity import OWN, validity, verdict
from hecate_core.composing import rule_of, strategy_of
from hecate_core.config import Config, recorded_config
from hecate_core.errors import CheckpointError, HecateError, InputError
from hecate_core.optimizers.leveled import UNHEALTHY
from hecate_core.registry import registry
from hecate_core.reporting import figures, pages
from hecate_core.reporting.probe import TOKENS, Probe, probe
from hecate_core.reporting.verdict import Verdict, judge
from hecate_core.run_folder import load_manifest

Record = dict[str, Any]


@frozen
class Reported:
    """A run as the report sees it."""

    name: str
    config: Config
    manifest: Mapping[str, Any]
    records: Sequence[Record]
    seen: Probe
    verdicts: tuple[Verdict, ...]  # of the memory's levels, then of the chain's
    updates: tuple[tuple[int, int] | None, ...]  # likewise

    @property
    def device(self) -> str:
        """Where it ran, in words."""
        machine = self.manifest.get("machine", {})
        where = machine.get("accelerator") or machine.get("processor", "unknown processor")
        return f"{self.manifest.get('device', '?')} ({where}, {self.manifest.get('threads', '?')} threads)"


def read_run(path: Path | str, *, tokens: int = TOKENS) -> Reported:
    """Everything a report says about one run; CheckpointError where it has no checkpoint or no metrics."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no run is here (no config.json); expected a folder made by hecate build")
    config, manifest = recorded_config(folder / "config.json"), load_manifest(folder)
    records, _ = files.read_json_lines(folder / "metrics.jsonl")
    seen = probe(folder, tokens=tokens)
    steps = [record["update"] for record in records if "update" in record]
    updates = tuple(_updates(steps, level.level) for level in seen.all_levels)
    bounds = _bounds(config)
    verdicts = tuple(
        judge(level, updates=moved, buffer=seen.health.get(level.level, 0.0) / bounds[level.level])
        for level, moved in zip(seen.all_levels, updates, strict=True)
    )
    return Reported(folder.name or str(folder), config, manifest, records, seen, verdicts, updates)


def report(paths: Sequence[Path | str], *, tokens: int = TOKENS) -> tuple[str, list[Record]]:
    """The HTML over all runs, and per level its state and reasons as plain values."""
    if not paths:
        raise InputError("report: no run; expected one or more folders made by hecate build")
    figures.demand_matplotlib()
    runs = [read_run(path, tokens=tokens) for path in paths]
    names = [
        run.name if [one.name for one in runs].count(run.name) == 1 else str(path)
        for run, path in zip(runs, paths, strict=True)
    ]
    curves = dict(zip(names, (run.records for run in runs), strict=True))
    timed = {name: (run.device, run.records) for name, run in zip(names, runs, strict=True)}
    parts = [
        pages.heading("Loss"),
        figures.loss_figure(curves),
        pages.heading("Throughput"),
        figures.throughput_figure(timed),
        _paces(timed),
    ]
    for name, run in zip(names, runs, strict=True):
        parts += _sections(name, run)
    rows = [
        {
            "run": name,
            "level": level.name,
            "block": level.block,
            "tokens": len(run.seen.ids),
            "state": found.state,
            "reasons": list(found.reasons),
        }
        for name, run in zip(names, runs, strict=True)
        for level, found in zip(run.seen.all_levels, run.verdicts, strict=True)
    ]
    return pages.page("hecate report: " + ", ".join(names), [_summary(rows), *parts]), rows


def _summary(rows: Sequence[Record]) -> str:
    dead = [f"{row['run']}: {row['level']}" for row in rows if row["state"] == "dead"]
    if not rows:
        return pages.paragraph("These runs have no memory and no chain of MLPs.")
    said = f"Dead levels: {'; '.join(dead)}." if dead else "No level is dead."
    colour = pages.COLOURS["dead" if dead else "live"]
    return f'<p id="summary" style="color:{colour};font-weight:600">{html.escape(said)}</p>'


def _paces(timed: Mapping[str, tuple[str, Sequence[Record]]]) -> str:
    rows = []
    for name, (device, records) in timed.items():
        pace = figures.pace_of(records)
        rows.append((name, device, round(pace["mean"]), round(pace["worst"])))
    return pages.table(("run", "device", "tokens per second, mean", "worst step"), rows)


def _sections(name: str, run: Reported) -> list[str]:
    seen, made = run.seen, [pages.heading(name)]
    final = run.records[-1] if run.records and run.records[-1].get("final") else {}
    scores = [(key, float(value)) for key, value in final.items() if key not in ("step", "final")]
    made.append(pages.table(("score", "value"), scores))
    if seen.levels:
        made += _memory(run)
        made += [pages.heading("What the memory's parts allow", 3), _validity(run.config)]
    if seen.channel:
        made += _channel(run)
    made += [pages.heading("Error buffers", 3), *_buffers(run)] if seen.all_levels else []
    made.append(pages.folded("Manifest", dict(run.manifest)))
    return made


def _memory(run: Reported) -> list[str]:
    """Everything about the levels of a run's memory."""
    seen, show = run.seen, pages
    levels, verdicts = seen.levels, run.verdicts[: len(seen.levels)]
    dead = [one.state == "dead" for one in verdicts]
    count = len(seen.ids)
    made = [
        show.heading("Levels at a glance", 3),
        show.paragraph(
            f"Read token by token over {count} held-out tokens from the newest checkpoint, from a fresh memory."
        ),
        show.glance(levels, verdicts, run.updates[: len(levels)]),
        figures.rates_figure(levels, dead),
        show.heading("Memory and momentum", 3),
        figures.norms_figure(levels, dead),
    ]
    if any(level.gates for level in levels):
        made += [show.heading("Gates", 3), figures.gates_figure(levels)]
    made += [show.heading("Surprise", 3), figures.surprise_figure(levels, dead)]
    peak = max((float(level.surprise.max()) for level in levels if len(level.surprise)), default=0.0)
    for level in levels:
        made += [show.paragraph(level.name), show.coloured(seen.ids, level.surprise, peak, is_text=seen.is_text)]
    return made


def _channel(run: Reported) -> list[str]:
    """Everything about the levels of a run's chains of MLPs."""
    first = len(run.seen.levels)
    levels, verdicts, updates = run.seen.channel, run.verdicts[first:], run.updates[first:]
    made = [
        pages.heading("Channel levels at a glance", 3),
        pages.channel_glance(levels, verdicts, updates),
        figures.channel_figure(levels, [one.state == "dead" for one in verdicts]),
    ]
    fast = [level for level in levels if level.change is not None]
    if fast:
        made += [pages.heading("Learned while reading", 3), figures.learning_figure(fast)]
    return made


def _buffers(run: Reported) -> list[str]:
    if not run.seen.health:
        return [pages.paragraph("No level rests between updates, so no gradients wait.")]
    return [figures.buffers_figure(run.seen.health, _bounds(run.config))]


def _bounds(config: Config) -> dict[int, float]:
    """Beyond which ratio |summed gradients| / |the last one| a level's error buffer is unhealthy."""
    return {n: UNHEALTHY * level.update_period**0.5 for n, level in enumerate(levels_in(config) or ())}


def _validity(config: Config) -> str:
    """The run's rule with every retention, under every strategy; derived from what the parts declare."""
    memory = config.model.memory
    assert memory is not None
    rows: dict[str, dict[str, tuple[str, str]]] = {}
    if memory.rule.name:
        for cell in validity([memory.rule.name]):
            if cell.composition == config.model.composition.name:
                key = cell.rule if cell.retention == OWN else f"{cell.rule} with {cell.retention}"
                rows.setdefault(key, {})[cell.strategy] = (cell.verdict, cell.reason)
    rule = rule_of(memory.rule)
    own = {}
    for strategy in registry().names("strategy"):
        try:
            own[strategy] = verdict(rule, strategy_of(strategy, rule, chunk=memory.chunk))
        except HecateError as error:
            own[strategy] = ("invalid", str(error))
    rows[memory.rule.name or rule.name] = own
    return pages.validity_table(rows, (memory.rule.name or rule.name, memory.strategy.name))


def _updates(steps: Sequence[Sequence[bool]], level: int) -> tuple[int, int] | None:
    """In how many of the run's steps a level's parameters moved."""
    known = [update[level] for update in steps if level < len(update)]
    return (sum(known), len(known)) if known else None
