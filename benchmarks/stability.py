"""The largest write rate at which a rule stays bounded, by retain, momentum and write period of a level.

python benchmarks/stability.py [--check | --page] [RULE ...]

Measures every registered rule (or those named, the others stay as they were) into benchmarks/results/stability.json
and makes docs/stability.md of it. --page makes the page alone; --check writes nothing: exit status 1 where the page
does not say what the file does. Rates, not times: the machine and its load do not matter.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from content import content_id

from hecate_core.composing import presented, rule_of, strategy_of
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.levels import due_runs
from hecate_core.parameters import initial_params
from hecate_core.protocols import MemoryRule
from hecate_core.records import Tokens
from hecate_core.registry import registry
from hecate_core.widths import full_widths

HERE = Path(__file__).parent
FILE, PAGE = HERE / "results" / "stability.json", HERE.parent / "docs" / "stability.md"
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
RETAIN, MOMENTUM, PERIODS = (0.9, 0.98, 0.9999), (0.0, 0.5, 0.9, 0.99), (1, 8)
TOKENS, WIDTH, CHUNK, GRAIN = 1024, 16, 16, 16
BOUND = 1e3  # a read beyond it, from values of length 4, is no memory


def strategy_for(rule: MemoryRule) -> str:
    if not isinstance(rule.offers(Affine), Refused):
        return "chunkwise"
    return "sequential" if isinstance(rule.offers(Linearised), Refused) else "frozen"


def texts(rule: MemoryRule, widths: dict[str, int], count: int) -> dict[str, torch.Tensor]:
    """Inputs of two rows: random unit keys, and one unit key throughout."""
    random = torch.Generator().manual_seed(0)
    made = {}
    for name, letter in rule.inputs.items():
        x = torch.randn(2, 1, count, widths[letter], generator=random)
        if name in ("q", "k"):
            x = F.normalize(x, dim=-1)
        if name == "k":
            x = torch.cat((x[:1], x[1:, :, :1].expand(-1, -1, count, -1)))
        made[name] = x.repeat_interleave(len(RATES), 0)
    return made


def largest_stable(name: str, fixed: dict[str, float], period: int) -> dict[str, float]:
    """By kind of text the largest rate that stays bounded with all smaller ones; 0 where none does."""
    rule = rule_of(name)
    spread = strategy_of(strategy_for(rule), rule, chunk=CHUNK)
    rule = presented(rule, spread)
    widths: dict[str, int] = dict(full_widths(rule, {"H": 1, "K": WIDTH, "V": WIDTH, "M": WIDTH}))
    count = sum(stop - start for start, stop, due in due_runs(0, TOKENS, period, GRAIN) if due)
    values = {gate: torch.full((2 * len(RATES),), fixed.get(gate, one.init)) for gate, one in rule.gates.items()}
    values["write"] = torch.tensor(RATES * 2)
    gates = {}
    for gate, one in rule.gates.items():
        shape = (-1, 1, count) if one.width is None else (-1, 1, count, widths[one.width])
        gates[gate] = values[gate].view(-1, *[1] * (len(shape) - 1)).expand(shape)
    params = initial_params(rule, widths)
    with torch.no_grad():
        state = spread.init_state(rule, params, 2 * len(RATES))
        y, _ = spread(rule, params, Tokens.of({**texts(rule, widths, count), **gates}), state)
    ends = y.abs().nan_to_num(nan=float("inf")).flatten(1).amax(1) < BOUND
    held = ends.view(2, len(RATES)).int().cummin(1).values.sum(1).tolist()
    return {text: RATES[n - 1] if n else 0.0 for text, n in zip(("random keys", "one key"), held, strict=True)}


def measured(name: str) -> dict[str, Any]:
    rule = rule_of(name)
    if "write" not in rule.gates:
        return {"rule": name, "strategy": strategy_for(rule), "rows": []}
    retains = RETAIN if "retain" in rule.gates else (None,)
    momenta = MOMENTUM if "momentum" in rule.gates else (None,)
    rows = []
    for retain in retains:
        for momentum in momenta:
            fixed = {key: one for key, one in (("retain", retain), ("momentum", momentum)) if one is not None}
            found = {str(period): largest_stable(name, fixed, period) for period in PERIODS}
            rows.append({"retain": retain, "momentum": momentum, "period": found})
            print(name, fixed, found, flush=True)
    declared = {gate: [one.low, one.high] for gate, one in rule.gates.items()}
    return {"rule": name, "strategy": strategy_for(rule), "declared": declared, "rows": rows}


INTRO = f"""
Per rule, at its default options and start: the largest constant write rate at which no read of {TOKENS:,} tokens
passed {BOUND:g}, nor at any smaller rate; 0 where even the smallest one did. Rates tried:
{", ".join(f"{rate:g}" for rate in RATES)}. Head width {WIDTH}, unit keys, values of unit
variance, chunk {CHUNK}, other gates at their start. Left of the stroke keys are random, right of it one key comes
throughout. A level of write period {PERIODS[1]} is given one grain of {GRAIN} tokens in {PERIODS[1]}.

Rates beyond a declared range are measured too: functions take them, gates do not reach them. A rate that holds
here may fail later in a longer text; the ends of declared ranges are run over 10,000 tokens by `make soak`.
"""


def page(found: list[dict[str, Any]]) -> str:
    made = f"Made by `benchmarks/stability.py` of `benchmarks/results/{FILE.name}`, content id `{content_id(found)}`"
    parts = [f"# Stability: the largest write rate\n\n{made}; do not edit.", INTRO]
    for one in found:
        parts.append(f"\n## {one['rule']}\n")
        if not one["rows"]:
            parts.append("No write gate.\n")
            continue
        low, high = one["declared"]["write"]
        parts.append(f"Strategy `{one['strategy']}`; the gate reaches from {low:g} to {high:g}.\n")
        parts.append(_table(one["rows"]))
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    """Retain downwards; momentum and period to the right."""
    columns = [
        (row["momentum"], period) for row in rows if row["retain"] == rows[0]["retain"] for period in row["period"]
    ]
    head = [_head(momentum, period) for momentum, period in columns]
    lines = [["retain", *head], ["---", *["--:"] * len(head)]]
    for retain in dict.fromkeys(row["retain"] for row in rows):
        mine = {row["momentum"]: row["period"] for row in rows if row["retain"] == retain}
        cells = [" / ".join(f"{rate:g}" for rate in mine[momentum][period].values()) for momentum, period in columns]
        lines.append(["-" if retain is None else f"{retain:g}", *cells])
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
