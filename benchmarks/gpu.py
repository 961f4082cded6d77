"""Everything about kernels that only a GPU can say, in one command: `make gpu`.

python benchmarks/gpu.py [--out FILE] [--minutes 9] [--rehearse] [--demand]

Parity of every registered pair against float64, compute-sanitizer where it is installed, timings beside fla-core with
the least times that the card allows, the cost of launching, one build step replayed as a CUDA graph. Writes
benchmarks/results/gpu.json, which names card, driver, versions and clocks; `python benchmarks/gpu_report.py` makes
docs/performance-gpu.md of it. Needs no network.

Without a usable GPU it says "not run", writes nothing and ends with status 0; with --demand with status 1. Status 1
also where anything is wrong. --rehearse goes the same way on the host backend with a clock that measures nothing.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from proof import machine, parity, replay, speed
from proof.stage import RESULTS, Stage, on_card, rehearsal

SCHEMA = "hecate.gpu/1"
Section = Callable[[Stage], Any]
LINE = "{rule:<7} {size:<28} {direction:<9} {ours_ms:>9.3f} ms  "


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--demand", action="store_true")
    parser.add_argument("--only-quick-cases", action="store_true", help="what a sanitizer watches")
    asked = parser.parse_args(words)
    why = None if asked.rehearse else machine.missing()
    if why is not None:
        print(f"gpu: not run: {why}")
        return 1 if asked.demand else 0
    stage = rehearsal() if asked.rehearse else on_card(asked.minutes)
    if asked.only_quick_cases:
        print(f"{parity.run_quick(stage)} cases")
        return 0
    result = proof(stage)
    out = asked.out or (None if asked.rehearse else RESULTS / "gpu.json")
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {out}")
    for line in result["wrong"]:
        print(f"WRONG {line}")
    return 1 if result["wrong"] else 0


def proof(stage: Stage) -> dict[str, Any]:
    """All sections; one that fails says so in the result and does not end the others."""
    begin = time.monotonic()
    about = machine.card()
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "status": "rehearsed" if stage.small else "measured",
        "card": about,
        "versions": machine.versions(),
        "backend": stage.backend,
        "method": "triton.testing.do_bench: warmup 25 ms, rep 100 ms, L2 flushed, medians",
        "wrong": [],
    }
    sections: dict[str, Section] = {
        "parity": parity.parity,
        "sanitizers": lambda stage: [] if stage.small else parity.sanitizers(Path(__file__)),
        "launching": replay.launch_cost,
        "build_step": _build_step,
        "speed": lambda stage: [_told(one) for one in speed.speeds(stage, about.get("name", ""))],
        "plain_torch": speed.against_plain_torch,
    }
    for name, section in sections.items():
        print(f"-- {name}", flush=True)
        try:
            result[name] = section(stage)
        except Exception as error:  # the other sections are worth having
            result[name] = None
            said = str(error).splitlines() or [""]
            result["wrong"].append(f"{name}: {type(error).__name__}: {said[0]}")
            continue
        for line in complaints(name, result[name]):
            result["wrong"].append(f"{name}: {line}")
    result["seconds"] = round(time.monotonic() - begin, 1)
    return result


def complaints(name: str, found: Any) -> list[str]:
    """What a section's result says is wrong; a missed goal of speed is no fault."""
    if name == "parity":
        if not found:
            return ["no pair is registered"]
        for one in found:
            print(f"{one['op']:<16} {one['dtype']:<9} {one['cases']:>3} cases  forward {one['forward']:.1e}  "
                  f"gradients {one['gradients']:.1e}  {one['wrong'] or 'ok'}")  # fmt: skip
        return [f"{one['op']} {one['dtype']}: {line}" for one in found for line in one["wrong"]]
    if name == "sanitizers":
        return [f"{one['tool']}: {one['outcome']}" for one in found if one["outcome"].startswith("found")]
    if name == "build_step" and not found["same_bits"]:
        return ["the replayed step differs from the plain one"]
    if name in ("launching", "build_step", "plain_torch"):
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()
            )
        )
    return []


def _told(one: dict[str, Any]) -> dict[str, Any]:
    if one["ours_ms"] is None:
        print(f"{one['rule']:<7} {one['size']:<28} {one['direction']:<9} {one['theirs']}")
        return one
    least = one.get("floor") or {}
    beside = f"fla {one['theirs_ms']:.3f} ms, ratio {one['ratio']:.2f}" if "ratio" in one else one["theirs"]
    share = f"; {least['by_bytes'] / one['ours_ms']:.0%} of the floor" if least.get("by_bytes") else ""
    print(LINE.format(**one) + beside + share, flush=True)
    return one


def _build_step(stage: Stage) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("\n\n".join(f"{n} squared is {n * n}, its cube {n**3}" for n in range(4000)))
        return replay.build_step(stage, str(text))


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main(sys.argv[1:]))
