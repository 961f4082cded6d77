"""How long `hecate check --all` takes, cold, as a command: seconds of the clock and of the CPU, and what it covered.

python benchmarks/check.py [--exhaustive] [--out FILE]
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

RECIPE = "one process, one thread, `hecate check --all --json` from a cold start; seconds of the clock and of the CPU"
ALLOWED = 60.0  # seconds of the clock on two cores


def measure(*, exhaustive: bool) -> dict[str, object]:
    command = [sys.executable, "-m", "hecate_core.cli", "check", "--all", "--json"]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command + ["--exhaustive"] * exhaustive,
        stdout=subprocess.PIPE,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout)
    outcomes = [check["outcome"] for check in found["checks"]]
    return {
        "recipe": RECIPE,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "status": done.returncode,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "allowed_seconds": None if exhaustive else ALLOWED,
        "checks": {name: outcomes.count(name) for name in sorted(set(outcomes))},
        "dry_runs": found["runs"],
        "cells": len(found["cells"]),
        "valid_cells": sum(cell["verdict"] != "invalid" for cell in found["cells"]),
        "impossible_pairs": len(found["impossible"]),
        "divergent_free_rows": len(found["unstable"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exhaustive", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    figures = measure(exhaustive=given.exhaustive)
    text = json.dumps(figures, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
