"""The largest write rate at which a rule stays bounded, by retain, momentum and write period of a level.

python benchmarks/stability.py [--check | --page] [RULE ...]

Measures every registered rule (or those named, the others stay as they were) under every strategy that serves it, with
anchors of 1, 16 and 64 tokens, into benchmarks/results/stability.json and makes docs/stability.md of it. --page makes
the page alone; --check writes nothing: exit status 1 where the page does not say what the file does. Rates, not times:
the machine and its load do not matter.
"""

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from content import content_id

from hecate_core.composing import presented, rule_of, strategy_of
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.gates import Gate
from hecate_core.levels import due_runs
from hecate_core.parameters import initial_params
from hecate_core.protocols import MemoryRule
from hecate_core.records import Params, Tokens
from hecate_core.registry import registry
from hecate_core.strategy_gates import gates_under
from hecate_core.widths import full_widths

HERE = Path(__file__).parent
FILE, PAGE = HERE / "results" / "stability.json", HERE.parent / "docs" / "stability.md"
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
RETAIN, MOMENTUM, PERIODS, ANCHORS = (0.9, 0.98, 0.9999), (0.0, 0.6, 0.9, 0.99), (1, 8), (16, 64)
TOKENS, WIDTH, GRAIN, ANGLE = 1024, 8, 16, 0.1
BOUND = 1e3  # a read beyond it, from values of length 3, is no memory
TEXTS = ("random keys", "one key", "turning keys")


def strategies(rule: MemoryRule) -> Iterator[tuple[str, Any, int]]:
    """What serves a rule: a name for the page, the strategy, its chunk."""
    affine = not isinstance(rule.offers(Affine), Refused)
    yield ("chunkwise", "chunkwise", ANCHORS[0]) if affine else ("sequential", "sequential", 1)
    if isinstance(rule.offers(Linearised), Refused):
        return
    for chunk in ANCHORS:
        yield f"frozen {chunk}", "frozen", chunk
    for chunk in ANCHORS:
        yield f"tnt {chunk}", {"name": "tnt", "global_chunk": chunk, "project": False}, chunk


def texts(rule: MemoryRule, widths: Mapping[str, int], count: int, rows: int) -> dict[str, torch.Tensor]:
    """Inputs of every kind of text, `rows` of each: random unit keys, one unit key, keys that turn in a plane."""
    random = torch.Generator().manual_seed(0)
    made = {}
    for name, letter in rule.inputs.items():
        x = torch.randn(1, 1, count, widths[letter], generator=random).expand(len(TEXTS), -1, -1, -1)
        if name in ("q", "k", "x"):
            x = _in_order(F.normalize(x[:1], dim=-1)) if name != "q" else F.normalize(x, dim=-1)
            x = x * widths[letter] ** 0.5 if name == "x" else x
        made[name] = x.repeat_interleave(rows, 0)
    return made


def _in_order(unit: torch.Tensor) -> torch.Tensor:
    """`[texts, 1, T, K]` of unit keys."""
    turned = (ANGLE * torch.arange(unit.shape[2])).view(1, 1, -1, 1)
    across, _ = torch.linalg.qr(unit[0, 0, :2].mT)
    turning = turned.cos() * across[:, 0] + turned.sin() * across[:, 1]
    return torch.cat((unit, unit[:, :, :1].expand_as(unit), turning))


def constant(rule: MemoryRule, params: Params, name: str, gate: Gate, values: list[float]) -> Params:
    """The parameters of a rule that reads a rate from a memory, such that the rate is `values`, one per head."""
    share = torch.tensor([(value - gate.low) / (gate.high - gate.low) for value in values], dtype=torch.float64)
    raw = torch.logit(share, eps=1e-12).float() - gate.raw_init()
    return params.replace(**{f"{name}_row": torch.zeros_like(params[f"{name}_row"]), f"{name}_shift": raw})


def largest_reads(
    rule: MemoryRule, strategy: Any, chunk: int, period: int, rows: list[dict[str, float]]
) -> torch.Tensor:
    """`[texts, rows]`: the largest read with the gates of each row; a rate that a memory makes is a head's own."""
    own: Mapping[str, Gate] = getattr(rule, "rates", {})
    spread = strategy_of(strategy, rule, chunk=chunk)
    shown = presented(rule, spread)
    heads, batch = (len(rows), 1) if own else (1, len(rows))
    widths = full_widths(shown, {"H": heads, "K": WIDTH, "V": WIDTH, "M": WIDTH})
    count = sum(stop - start for start, stop, due in due_runs(0, TOKENS, period, GRAIN) if due)
    gates = {}
    for name, gate in shown.gates.items():
        shape = (-1, 1, count) if gate.width is None else (-1, 1, count, widths[gate.width])
        values = torch.tensor([row.get(name, gate.init) for row in rows]).repeat(len(TEXTS))
        gates[name] = values.view(-1, *[1] * (len(shape) - 1)).expand(shape)
    params = initial_params(shown, widths)
    for name, gate in own.items():
        params = constant(shown, params, name, gate, [row.get(name, gate.init) for row in rows])
    inputs = {name: one.expand(-1, heads, -1, -1) for name, one in texts(shown, widths, count, batch).items()}
    with torch.no_grad():
        state = spread.init_state(shown, params, len(TEXTS) * batch)
        y, _ = spread(shown, params, Tokens.of({**inputs, **gates}), state)
    return y.abs().nan_to_num(nan=math.inf).flatten(2).amax(2).view(len(TEXTS), len(rows))


def measured(name: str) -> dict[str, Any]:
    rule = _widest(name)
    gates = {**rule.gates, **getattr(rule, "rates", {})}
    found: dict[str, Any] = {"rule": name, "strategies": {}}
    for label, strategy, chunk in strategies(rule):
        print(name, label, flush=True)
        held = gates_under(rule, strategy_of(strategy, rule, chunk=chunk))
        one: dict[str, Any] = {"declared": {gate: [limits.low, limits.high] for gate, limits in held.items()}}
        if "write" not in gates:
            one["reads"] = [round(float(read), 1) for read in largest_reads(rule, strategy, chunk, 1, [{}])[:, 0]]
        else:
            one["rows"] = _rows(rule, gates, strategy, chunk)
        found["strategies"][label] = one
    return found


def _widest(name: str) -> MemoryRule:
    """The rule, its own rates reaching as far as its options let them."""
    rule = rule_of(name)
    return rule_of({"name": name, "largest_write": 1.0}) if hasattr(rule, "rates") else rule


def _rows(rule: MemoryRule, gates: Mapping[str, Gate], strategy: Any, chunk: int) -> list[dict[str, Any]]:
    """Per retain and momentum, per period and text, the largest rate that stays bounded with all smaller ones."""
    axes = [
        [(gate, value) for value in values] if gate in gates else [(gate, None)]
        for gate, values in (("retain", RETAIN), ("momentum", MOMENTUM))
    ]
    cells = [dict(pair) for pair in itertools.product(*axes)]
    rates = RATES if "write" in rule.gates else tuple(rate for rate in RATES if rate <= gates["write"].high)
    rows = [
        {**{gate: value for gate, value in cell.items() if value is not None}, "write": rate}
        for cell in cells
        for rate in rates
    ]
    made: list[dict[str, Any]] = [{**cell, "period": {}} for cell in cells]
    for period in PERIODS:
        bounded = largest_reads(rule, strategy, chunk, period, rows) < BOUND
        held = bounded.view(len(TEXTS), len(cells), len(rates)).int().cummin(2).values.sum(2)
        for index, cell in enumerate(made):
            counts = held[:, index].tolist()
            cell["period"][str(period)] = [rates[n - 1] if n else 0.0 for n in counts]
    return made


INTRO = f"""
Per rule, at its default options and start: the largest constant write rate at which no read of {TOKENS:,} tokens
passed {BOUND:g}, nor at any smaller rate; 0 where even the smallest one did. Rates tried:
{", ".join(f"{rate:g}" for rate in RATES)}. Head width {WIDTH}, unit keys, values of unit
variance, other gates at their start. A cell says it of random keys / one key throughout / keys that turn in a
plane by {ANGLE:g} a token. A level of write period {PERIODS[1]} is given one grain of {GRAIN} tokens in {PERIODS[1]}.
Rows are strategies: the exact one, then `frozen` and `tnt` (its global chunk, steps summed, no projection) with the
tokens that take their errors at one memory, each with the end of the write gate that a model is built with there
(specs/forms/linearised.md, Eq. 14; no end where the memory makes its own rate).

Rates beyond a range are measured too: functions take them, gates do not reach them. A rate that holds here may
fail later in a longer text; the ends of all ranges are run over 10,000 tokens in six orders of keys by `make soak`.
"""


def page(found: list[dict[str, Any]]) -> str:
    made = f"Made by `benchmarks/stability.py` of `benchmarks/results/{FILE.name}`, content id `{content_id(found)}`"
    parts = [f"# Stability: the largest write rate\n\n{made}; do not edit.", INTRO]
    for one in found:
        parts.append(f"\n## {one['rule']}\n")
        given = one["strategies"]
        if any("reads" in each for each in given.values()):
            parts.append(_fixed(given))
        else:
            parts.append(_table(given))
    return "\n".join(parts)


def _fixed(given: Mapping[str, Any]) -> str:
    """Reads of a rule whose rate is no gate."""
    lines = [["strategy", *(f"largest read, {text}" for text in TEXTS)], ["---", *["--:"] * len(TEXTS)]]
    lines += [[name, *(f"{read:g}" for read in one["reads"])] for name, one in given.items()]
    return "Its rate is fixed; what grows is a sum of values.\n\n" + _drawn(lines)


def _table(given: Mapping[str, Any]) -> str:
    """Strategies and retain downwards; momentum and period to the right."""
    first = next(iter(given.values()))["rows"]
    columns = [
        (row["momentum"], period) for row in first if row["retain"] == first[0]["retain"] for period in row["period"]
    ]
    lines = [["strategy", "write ends", "retain", *(_head(*one) for one in columns)]]
    lines.append(["---", "--:", "--:", *["--:"] * len(columns)])
    for name, one in given.items():
        end = f"{one['declared']['write'][1]:.4g}" if "write" in one["declared"] else "-"
        for retain in dict.fromkeys(row["retain"] for row in one["rows"]):
            mine = {row["momentum"]: row["period"] for row in one["rows"] if row["retain"] == retain}
            cells = [" / ".join(f"{rate:g}" for rate in mine[momentum][period]) for momentum, period in columns]
            lines.append([name, end, "-" if retain is None else f"{retain:g}", *cells])
    return _drawn(lines)


def _drawn(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _head(momentum: float | None, period: str) -> str:
    return f"period {period}" if momentum is None else f"momentum {momentum:g}, period {period}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rules", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    found = {one["rule"]: one for one in json.loads(FILE.read_text())} if FILE.exists() else {}
    if given.check:
        if PAGE.read_text() == page(list(found.values())):
            return 0
        raise SystemExit(f"{PAGE}: does not say what {FILE.name} does; run benchmarks/stability.py --page")
    if not given.page:
        torch.set_num_threads(1)
        for name in given.rules or registry().names("rule"):
            found[name] = measured(name)
            FILE.write_text(json.dumps([found[one] for one in sorted(found)], indent=1) + "\n")
    PAGE.write_text(page([found[one] for one in sorted(found)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
