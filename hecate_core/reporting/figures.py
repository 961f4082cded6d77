"""The figures of a report as SVG text; matplotlib is asked for here and nowhere else."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hecate_core.errors import PluginError
from hecate_core.reporting.channel import ChannelLevel
from hecate_core.reporting.probe import Level

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, TALL = 9.0, 2.8  # inches of one figure; every further row of panels adds TALL
DEAD = "#b3261e"
OF_A_STEP = {"step", "final", "loss", "lr", "tokens", "seconds"}  # every other number in a record is a score
Record = Mapping[str, Any]


def demand_matplotlib() -> None:
    """PluginError, one line, where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise PluginError(
            f"report: matplotlib does not load ({error}); install it with: pip install hecate-core[report]"
        ) from None


def loss_figure(runs: Mapping[str, Sequence[Record]]) -> str:
    """Loss in nats per token over the steps, a line per run; below it scores on what was held out, the last included.

    Without evaluations before the end there is nothing below: what a run ended with stands in its table.
    """
    scored = {name: _scores(records) for name, records in runs.items()}
    interim = any(_scores([one]) for records in runs.values() for one in records if not one.get("final"))
    figure, axes = _figure(2 if interim else 1, 1)
    for name, records in runs.items():
        steps = [record for record in records if "loss" in record]
        axes[0].plot(
            [r["step"] for r in steps], [r["loss"] for r in steps], label=name, linewidth=1, marker=_mark(steps)
        )
    _finish(axes[0], "step", "loss (nats per token)", legend=True)
    if interim:
        axes[1].sharex(axes[0])
        for name, scores in scored.items():
            for score, points in scores.items():
                axes[1].plot(*zip(*points, strict=True), label=f"{name}: {score}", linewidth=1, marker=".")
        _finish(axes[1], "step", "held out", legend=True)
    return _svg(figure, "loss")


def _scores(records: Sequence[Record]) -> dict[str, list[tuple[int, float]]]:
    """By score its values, each with the steps that were done by then."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        done = record["step"] if record.get("final") else record["step"] + 1
        for name, value in record.items():
            if name not in OF_A_STEP and isinstance(value, (int, float)):
                found.setdefault(name, []).append((done, value))
    return found


def throughput_figure(runs: Mapping[str, tuple[str, Sequence[Record]]]) -> str:
    """Tokens per second of every step; a run's mean and worst step are in its label, with its device."""
    figure, axes = _figure(1, 1)
    for name, (device, records) in runs.items():
        steps = [record for record in records if record.get("seconds")]
        rates = [record["tokens"] / record["seconds"] for record in steps]
        pace = pace_of(steps)
        label = f"{name} on {device}: mean {pace['mean']:,.0f}, worst step {pace['worst']:,.0f}"
        axes[0].plot([r["step"] for r in steps], rates, label=label, linewidth=0.8, marker=_mark(steps))
        axes[0].axhline(pace["mean"], linewidth=0.8, linestyle="--", color="0.4")
    axes[0].set_ylim(bottom=0)
    _finish(axes[0], "step", "tokens per second", legend=True)
    return _svg(figure, "throughput")


def pace_of(records: Sequence[Record]) -> dict[str, float]:
    """Tokens per second over all steps and in the worst one."""
    timed = [record for record in records if record.get("seconds")]
    seconds = sum(record["seconds"] for record in timed)
    tokens = sum(record["tokens"] for record in timed)
    rates = [record["tokens"] / record["seconds"] for record in timed]
    return {"mean": tokens / seconds if seconds else 0.0, "worst": min(rates, default=0.0)}


def gates_figure(levels: Sequence[Level]) -> str:
    """Distribution of every gate's used values, a row per level, between the edges of the gate's range."""
    names = sorted({name for level in levels for name in level.gates})
    figure, axes = _figure(len(levels), max(1, len(names)))
    for row, level in enumerate(levels):
        for column, name in enumerate(names):
            panel = axes[row * len(names) + column]
            used = level.gates.get(name)
            if used is None:
                panel.set_axis_off()
                continue
            low, high = level.ranges[name]
            panel.hist(used.tolist(), bins=40, range=(low, high), color="#31688e")
            panel.set_title(f"{level.name}: {name}, mean {float(used.mean()):.4g}", fontsize=8)
            _finish(panel, "", "")
    return _svg(figure, "gates")


def norms_figure(levels: Sequence[Level], dead: Sequence[bool]) -> str:
    """Norm of memory and momentum over the tokens, a panel per level; a dead level's panel is red and says so."""
    figure, axes = _figure(-(-len(levels) // 2), min(2, len(levels)))
    for panel, level, is_dead in zip(axes, levels, dead, strict=False):
        panel.plot(level.memory.tolist(), label="memory", color=DEAD if is_dead else "#31688e", linewidth=1.2)
        if level.momentum is not None:
            panel.plot(level.momentum.tolist(), label="momentum", color="#35b779", linewidth=1)
        _title(panel, level.name, is_dead)
        _finish(panel, "token", "norm", legend=True)
    for panel in axes[len(levels) :]:
        panel.set_axis_off()
    return _svg(figure, "norms")


def rates_figure(levels: Sequence[Level], dead: Sequence[bool]) -> str:
    """Share of the tokens that change a level's memory, and what its writes are worth."""
    figure, axes = _figure(1, 2)
    names = [level.name for level in levels]
    colours = [DEAD if is_dead else "#31688e" for is_dead in dead]
    axes[0].barh(names, [level.write_rate for level in levels], color=colours)
    axes[0].set_xlim(0, 1)
    axes[1].barh(names, [level.effect for level in levels], color=colours)
    axes[1].set_yticklabels([])
    for panel, what in zip(axes, ("share of tokens written", "bits per token lost without its writes"), strict=True):
        panel.invert_yaxis()
        _finish(panel, what, "")
    return _svg(figure, "rates")


def channel_figure(levels: Sequence[ChannelLevel], dead: Sequence[bool]) -> str:
    """What every level of a chain of MLPs adds, and what that is worth."""
    figure, axes = _figure(1, 2)
    names = [level.name for level in levels]
    colours = [DEAD if is_dead else "#31688e" for is_dead in dead]
    axes[0].barh(names, [level.share for level in levels], color=colours)
    axes[1].barh(names, [level.effect for level in levels], color=colours)
    axes[1].set_yticklabels([])
    for panel, what in zip(axes, ("length added / length given", "bits per token lost without it"), strict=True):
        panel.invert_yaxis()
        _finish(panel, what, "")
    return _svg(figure, "channel")


def learning_figure(levels: Sequence[ChannelLevel]) -> str:
    """How far the weights of every FAST level are from where the text found them, after each piece of it."""
    figure, axes = _figure(1, 1)
    for level in levels:
        lengths = [] if level.change is None else level.change.tolist()
        axes[0].plot(lengths, label=level.name, linewidth=1, marker=".")
    _finish(axes[0], "piece of the text", "|change of the weights|", legend=True)
    return _svg(figure, "learning")


def surprise_figure(levels: Sequence[Level], dead: Sequence[bool]) -> str:
    """Surprise per token, a panel per level on one scale; a dead level's panel is red and says so."""
    figure, axes = _figure(-(-len(levels) // 2), min(2, len(levels)))
    for panel, level, is_dead in zip(axes, levels, dead, strict=False):
        if panel is not axes[0]:
            panel.sharey(axes[0])
        panel.plot(level.surprise.tolist(), color=DEAD if is_dead else "#31688e", linewidth=1)
        _title(panel, level.name, is_dead)
        _finish(panel, "token", "surprise")
    for panel in axes[len(levels) :]:
        panel.set_axis_off()
    return _svg(figure, "surprise")


def buffers_figure(ratios: Mapping[int, float], bounds: Mapping[int, float]) -> str:
    """Error buffers: |summed gradients| / |the last one| by level, with the bound beyond which they are unhealthy."""
    figure, axes = _figure(1, 1)
    names = [f"level {level}" for level in ratios]
    sick = [not ratio <= bounds[level] for level, ratio in ratios.items()]
    axes[0].barh(names, list(ratios.values()), color=[DEAD if one else "#31688e" for one in sick])
    axes[0].plot([bounds[level] for level in ratios], names, "k|", markersize=14, label="3 sqrt(period)")
    axes[0].invert_yaxis()
    _finish(axes[0], "error buffer / gradient", "", legend=True)
    return _svg(figure, "buffers")


def _mark(steps: Sequence[Record]) -> str:
    return "." if len(steps) < 2 else ""


def _figure(rows: int, columns: int) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, max(TALL, 1.9 * rows) if columns > 1 or rows > 1 else TALL), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _title(panel: "Axes", name: str, is_dead: bool) -> None:
    panel.set_title(f"{name}{': DEAD' if is_dead else ''}", fontsize=9, color=DEAD if is_dead else "black")
    if is_dead:
        panel.set_facecolor("#fbe9e7")


def _finish(panel: "Axes", across: str, up: str, *, legend: bool = False) -> None:
    panel.set_xlabel(across, fontsize=8)
    panel.set_ylabel(up, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3)
    if legend and panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=7)


def _svg(figure: "Figure", name: str) -> str:
    """The figure as an svg element; `name` is its id and stands before every id inside: figures share a page."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    return text.replace("<svg ", f'<svg id="{name}" role="img" ', 1)
