"""The report's HTML: one file that opens without a network."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hecate_core.reporting.channel import ChannelLevel
from hecate_core.reporting.probe import Level
from hecate_core.reporting.verdict import Verdict
from hecate_core.shapes import Tensor

COLOURS = {"live": "#1b6e3c", "odd": "#8a5a00", "dead": "#b3261e"}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2, h3 { line-height: 1.2 } svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: 0.87rem; margin: 0.7rem 0 }
td, th { border: 1px solid #ccc; padding: 0.2rem 0.5rem; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.state { color: white; padding: 0.05rem 0.5rem; border-radius: 0.6rem; font-weight: 600 }
.text { font-family: ui-monospace, monospace; font-size: 0.82rem; white-space: pre-wrap; word-break: break-all }
pre { font-size: 0.78rem; overflow-x: auto; background: #f6f6f6; padding: 0.6rem }
.exact { background: #e3f1e7 } .approximate { background: #fdf3dc } .invalid { color: #888 }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    top = f"<h1>{html.escape(title)}</h1>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{top}\n{body}\n</body></html>\n'


def heading(text: str, rank: int = 2) -> str:
    """A heading."""
    return f"<h{rank}>{html.escape(text)}</h{rank}>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; numbers to the right, a cell that is `Html` as it is."""
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


class Html(str):
    """Markup that is not escaped again."""


def _cell(value: Any) -> str:
    if isinstance(value, Html):
        return f"<td>{value}</td>"
    if isinstance(value, (int, float)):
        return (
            f'<td class="number">{value:,.4g}</td>'
            if isinstance(value, float)
            else f'<td class="number">{value:,}</td>'
        )
    return f"<td>{html.escape(str(value))}</td>"


def badge(verdict: Verdict) -> Html:
    """The state in a word on its colour."""
    return Html(f'<span class="state" style="background:{COLOURS[verdict.state]}">{verdict.state.upper()}</span>')


def glance(levels: Sequence[Level], verdicts: Sequence[Verdict], updates: Sequence[tuple[int, int] | None]) -> str:
    """One row per level: its state, its numbers (memory norm and surprise: means), and why."""
    head = (
        "level",
        "state",
        "tokens written",
        "memory norm, mean",
        "surprise, mean",
        "bits its writes save",
        "updated",
        "why",
    )
    rows = []
    for level, verdict, moved in zip(levels, verdicts, updates, strict=True):
        rows.append((
            level.name, badge(verdict), f"{level.write_rate:.0%}", _mean(level.memory), _mean(level.surprise),
            level.effect, _moved(moved), "; ".join(verdict.reasons),
        ))  # fmt: skip
    return table(head, rows)


def channel_glance(
    levels: Sequence[ChannelLevel], verdicts: Sequence[Verdict], updates: Sequence[tuple[int, int] | None]
) -> str:
    """One row per level of a chain of MLPs: its state, its numbers, and why."""
    head = ("level", "state", "added / given", "bits it saves", "learned while reading", "updated", "why")
    rows = []
    for level, verdict, moved in zip(levels, verdicts, updates, strict=True):
        learned = "-" if level.change is None else f"{float(level.change.max()):.4g}"
        rows.append((
            level.name, badge(verdict), level.share, level.effect, learned, _moved(moved), "; ".join(verdict.reasons),
        ))  # fmt: skip
    return table(head, rows)


def _moved(updates: tuple[int, int] | None) -> str:
    return "-" if updates is None else f"{updates[0]} of {updates[1]} steps"


def coloured(ids: Sequence[int], surprise: Tensor, peak: float, *, is_text: bool) -> str:
    """The text, each token on a colour as strong as its surprise beside `peak`, the largest of the run."""
    pieces = []
    for token, one in zip(ids, surprise.tolist(), strict=False):
        shown = _shown(token) if is_text else f"{token} "
        share = one / peak if peak > 0 else 0.0
        pieces.append(
            f'<span title="{one:.4g}" style="background:rgba(214,69,65,{share:.3f})">{html.escape(shown)}</span>'
        )
    return f'<div class="text">{"".join(pieces)}</div>'


def validity_table(rows: Mapping[str, Mapping[str, tuple[str, str]]], here: tuple[str, str]) -> str:
    """Rule and retention against strategies: exact, approximate, or invalid and why; the run's own cell is marked."""
    strategies = list(next(iter(rows.values())))
    body = []
    for name, cells in rows.items():
        line: list[Any] = [name]
        for strategy in strategies:
            verdict, reason = cells.get(strategy, ("", ""))
            mark = " (this run)" if (name, strategy) == here else ""
            words = html.escape(f"{verdict}{mark}" + (f": {reason}" if reason else ""))
            line.append(Html(f'<span class="{verdict}">{words}</span>'))
        body.append(line)
    return table(("rule", *strategies), body)


def folded(title: str, content: Mapping[str, Any]) -> str:
    """Plain values as JSON, folded away."""
    text = html.escape(json.dumps(content, indent=2, sort_keys=True, default=str))
    return f"<details><summary>{html.escape(title)}</summary><pre>{text}</pre></details>"


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


def _shown(byte: int) -> str:
    if byte == 10:
        return "\n"
    return chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"
