"""Every registered pair against float64 on the card, and the card's own sanitizers over the same cases."""

import shutil
import sys
from pathlib import Path
from typing import Any

from hecate_kernels import child
from hecate_kernels.compare import differences
from hecate_kernels.pair import CheckedPair

from hecate_core.api import HecateError, registry

from .stage import Stage

TOOLS = ("memcheck", "racecheck")
CLEAN = "ERROR SUMMARY: 0 errors"
RACE_FREE = "RACECHECK SUMMARY: 0 hazards"


def pairs(backend: str) -> dict[str, CheckedPair]:
    """All pairs of a backend that bring cases, by op."""
    made = (registry().create("pair", name) for name in registry().names("pair"))
    return {one.op: one for one in made if one.backend == backend and hasattr(one, "trials")}


def parity(stage: Stage) -> list[dict[str, Any]]:
    """A record per pair and dtype: the worst errors, how many cases, and what was wrong, if anything."""
    records = []
    for op, pair in sorted(pairs(stage.backend).items()):
        found: dict[str, dict[str, Any]] = {}
        for trial in pair.trials(False):
            if stage.small and not trial.quick:
                continue
            about = {"op": op, "dtype": trial.dtype, "cases": 0, "forward": 0.0, "gradients": 0.0, "wrong": []}
            record = found.setdefault(trial.dtype, about)
            record["cases"] += 1
            try:
                results = list(differences(trial, pair.kernels.tolerance[trial.dtype], stage.launcher()))
            except HecateError as error:
                record["wrong"].append(f"{trial.name}: {error}")
                continue
            for one in results:
                side = "gradients" if one.is_gradient else "forward"
                record[side] = max(record[side], one.error)
                if not one.good:
                    record["wrong"].append(one.line())
        records += found.values()
    return records


def run_quick(stage: Stage) -> int:
    """The quick cases of every pair, nothing compared: what a sanitizer watches; how many."""
    count = 0
    for pair in pairs(stage.backend).values():
        for trial in pair.trials(False):
            if trial.quick:
                trial.run(stage.launcher())
                count += 1
    return count


def sanitizers(script: Path, seconds: int = 150) -> list[dict[str, str]]:
    """compute-sanitizer over the quick cases, in a child with a limit; says so where the tool is missing."""
    tool = shutil.which("compute-sanitizer") or next(
        iter(map(str, Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))), None
    )
    if tool is None:
        return [{"tool": name, "outcome": "not run: compute-sanitizer is not installed"} for name in TOOLS]
    found = []
    for name in TOOLS:
        command = [tool, "--tool", name, "--error-exitcode", "99", sys.executable, str(script), "--only-quick-cases"]
        finished = child.run(command, child.Limits(wall_s=seconds, cpu_s=4 * seconds, memory_mib=None))
        found.append({"tool": name, "outcome": outcome(name, finished)})
    return found


def outcome(tool: str, finished: child.Finished) -> str:
    """ "clean", or one line with what was found or why it did not end."""
    if finished.stopped:
        return "not run: took too long"
    wanted = RACE_FREE if tool == "racecheck" else CLEAN
    if finished.status == 0 and wanted in finished.text:
        return "clean"
    lines = [line.strip("= \n") for line in finished.text.splitlines() if line.startswith("=========")]
    said = next((line for line in lines if line and not line.startswith("COMPUTE-SANITIZER")), "no report")
    return f"found: {said} (status {finished.status})"
