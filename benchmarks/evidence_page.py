"""Makes the results in docs/evidence.md of benchmarks/evidence/*.json, and holds them to what they are kept for.

python benchmarks/evidence_page.py [--check]

With --check nothing is written: exit status 1 where the page does not say what the files do, or a file no longer shows
what it is kept for.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hecate_core.conditions import Run, clashes
from hecate_core.config import make_config

HERE = Path(__file__).parent
FOLDER, PAGE = HERE / "evidence", HERE.parent / "docs" / "evidence.md"
BEGIN, END = "<!-- results: written by benchmarks/evidence_page.py -->", "<!-- end -->"

Scores = Mapping[str, list[float]]  # by case or grid point, one per seed


def twins_fail(scores: Scores) -> bool:
    """Every rule above 0.9 where it writes, below 0.2 where it does not; three seeds each."""
    written = {cell: values for cell, values in scores.items() if cell.startswith("written")}
    silent = {cell: values for cell, values in scores.items() if cell.startswith("writes-off")}
    return (
        len(written) == len(silent) > 0
        and all(min(values) >= 0.9 for values in written.values())
        and all(max(values) < 0.2 for values in silent.values())
    )


# What each file is kept for: a sentence, and the check of its scores.
KEPT_FOR: dict[str, tuple[str, Callable[[Scores], bool]]] = {
    "parity": (
        "Parity of 96 bits: a write range that ends at 2 tracks it (at least 0.97), one that ends at 1 does not (below "
        "0.6), and a memory that is never written knows nothing.",
        lambda s: min(s["write-0-2"]) >= 0.97 and max(s["write-0-1"]) < 0.6 and max(s["writes-off"]) < 0.6,
    ),
    "mqar": (
        "Recall of 8 pairs among 512 ids: attention and the delta rule reach at least 0.95, its gated form and Titans "
        "(with the momentum of keys without order) within 0.03 of it; a memory that is never written knows nothing.",
        lambda s: (
            min(s["attention"]) >= 0.95
            and min(s["delta"]) >= 0.95
            and max(s["writes-off"]) < 0.05
            and all(abs(mean(s[case]) - mean(s["delta"])) <= 0.03 for case in ("gated-delta", "titans"))
        ),
    ),
    "passkey": (
        "A digit said 40 tokens back, two layers of a window of 16: the memory (Titans, with the momentum of keys "
        "without order) finds it, the window alone does not.",
        lambda s: min(s["titans"]) >= 0.95 and max(s["window-alone"]) < 0.3 and max(s["writes-off"]) < 0.3,
    ),
    "rules-exact": ("Rules with an exact chunk form against their twins that are never written.", twins_fail),
    "rules-window": (
        "Atlas over a window of two tokens, frozen over 8, against its twin that is never written.",
        twins_fail,
    ),
    "rules-frozen": (
        "Rules with inner gradients frozen over 8 tokens, against their twins that are never written.",
        twins_fail,
    ),
    "rules-self": (
        "The rule whose projections are memories too, frozen over 8 tokens, against its twin that is never written.",
        twins_fail,
    ),
    "timescales": (
        "Two timescales: one level against four that write every 1st, 2nd, 4th and 8th group of 4 tokens, and against "
        "four that always write. Kept whatever came out.",
        lambda s: max(s["writes-off"]) < min(s["k1"]),
    ),
    "timescales-cms": (
        "The same stream with a chain of MLPs (CMS) behind the memory: one against four that learn at every 1st, 2nd, "
        "4th and 8th step, and against four that learn at every step. Kept whatever came out.",
        lambda s: max(s["writes-off"]) < min(s["k1"]),
    ),
}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def scores_of(found: Mapping[str, Any]) -> dict[str, list[float]]:
    """Accuracy by cell without its seed, in the order of the seeds."""
    made: dict[str, list[float]] = {}
    for run in sorted(found["runs"], key=lambda run: int(run["manifest"]["seed"])):
        made.setdefault(run["cell"].rsplit("/", 1)[0], []).append(run["records"][-1]["accuracy"])
    return made


def runs_of(found: Mapping[str, Any]) -> list[Run]:
    """The runs of a file as `hecate compare` takes them."""
    return [
        Run(Path(one["cell"]), make_config(one["config"]), one["manifest"], one["records"][-1]) for one in found["runs"]
    ]


def section(name: str, found: Mapping[str, Any]) -> str:
    sentence, _ = KEPT_FOR[name]
    scores, first = scores_of(found), found["runs"][0]
    seeds = sorted({run["manifest"]["seed"] for run in found["runs"]})
    rows = [
        f"| {cell} | {' | '.join(f'{value:.3f}' for value in values)} | {mean(values):.3f} |"
        for cell, values in sorted(scores.items(), key=lambda item: _order(found, item[0]))
    ]
    manifest = first["manifest"]
    machine = f"{manifest['machine']['processor']}, {manifest['threads']} thread, torch {manifest['versions']['torch']}"
    return "\n".join([
        f"### {name}",
        "",
        f"{sentence} Accuracy by seed, chance {first['records'][-1]['chance']:.3f}; "
        f"[{name}.toml](../benchmarks/evidence/{name}.toml), manifest id `{found['id']}`, {machine}.",
        "",
        f"| case | {' | '.join(f'seed {seed}' for seed in seeds)} | mean |",
        f"|---|{'--:|' * (len(seeds) + 1)}",
        *rows,
        "",
    ])  # fmt: skip


def _order(found: Mapping[str, Any], cell: str) -> int:
    return next(n for n, run in enumerate(found["runs"]) if run["cell"].startswith(f"{cell}/"))


def results() -> dict[str, dict[str, Any]]:
    """Every committed file by name; the program's own reader checks ids in the tests."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def written(page: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with its results made anew."""
    head, rest = page.split(BEGIN)
    tail = rest.split(END, 1)[1]
    body = "\n".join(section(name, one) for name, one in found.items())
    return f"{head}{BEGIN}\n{body}{END}{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    found, page = results(), PAGE.read_text()
    for name, one in found.items():
        if differing := clashes(runs_of(one)):
            raise SystemExit(f"{name}.json: hecate compare would refuse its runs: {differing}")
        if not KEPT_FOR[name][1](scores_of(one)):
            raise SystemExit(f"{name}.json: does not show what it is kept for: {KEPT_FOR[name][0]}")
    made = written(page, found)
    if not parser.parse_args().check:
        PAGE.write_text(made)
    elif page != made:
        raise SystemExit(f"{PAGE.name}: not what the files say; run python benchmarks/evidence_page.py")


if __name__ == "__main__":
    main()
