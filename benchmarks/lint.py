"""CPU seconds of hecate-lint on torch's own nn, optim and autograd, beside fixit, torchfix and the parse of libcst.

    python benchmarks/lint.py [--peers FOLDER] [--rounds N] [--write]

`--peers` is a folder with the commands `fixit` and `torchfix`: `python -m venv P && P/bin/pip install fixit torchfix`,
then `--peers P/bin`; without it their CPU seconds stay those of the last run that had it. The files are copied to a
plain folder first, because fixit skips what a .gitignore covers.
CPU seconds of a process and all its children, user and system; no wall clock anywhere. Each round measures everything
once, so that what else runs on the machine falls on all of them; ratios are of one round, and their median is shown.
`--write` puts the figures into results/lint.json; `--page` makes docs/lint-performance.md of that file and measures
nothing, `--check` fails where the page does not say what the file does.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from content import content_id

SMALL_RUNS = 5
FOLDERS = ("nn", "optim", "autograd")
RESULT = Path(__file__).parent / "results" / "lint.json"
PAGE = Path(__file__).parent.parent / "docs" / "lint-performance.md"
PARSE = "import sys, libcst\nfor p in sys.argv[1:]: libcst.parse_module(open(p, encoding='utf-8').read())\n"
HECATE = [sys.executable, "-m", "hecate_lint", "--config", os.devnull, "--jobs", "1"]


@dataclass(frozen=True)
class Cost:
    """CPU seconds, largest resident set in MB, and the exit status of one command."""

    cpu_s: float
    peak_mb: float
    status: int


def cost(command: list[str], cwd: str) -> Cost:
    """Run a command in a process of its own, so that its children are counted and ours are not."""
    code = (
        "import resource, subprocess, sys\n"
        "status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=cwd, capture_output=True, text=True, check=True)
    cpu, peak, status = done.stdout.split()
    return Cost(float(cpu), float(peak), int(status))


def typical(name: str, command: list[str], folder: str) -> Cost:
    """One run; of a small file the middle one of SMALL_RUNS, as a tenth of a second is mostly the machine's mood."""
    runs = [cost(command, folder) for _ in range(SMALL_RUNS if name.startswith("one small file") else 1)]
    return sorted(runs, key=lambda run: run.cpu_s)[len(runs) // 2]


def kept_peers() -> dict[str, Cost]:
    """The peers as they were measured last, for a run that measures none."""
    before = json.loads(RESULT.read_text())["peers"] if RESULT.exists() else {}
    return {name: Cost(each["cpu_s"], 0.0, each["status"]) for name, each in before.items()}


def torch_root() -> Path:
    """The installed torch package; nothing of it is imported."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("torch is not installed; its sources are what is linted")
    return Path(spec.origin).parent


def commands(folder: str, files: list[str]) -> dict[str, list[str]]:
    """What each round runs, by the name that the page shows."""
    corpus = os.path.join(folder, "corpus")
    Path(folder, "clean.py").write_text("x = 1\n" * 20)
    Path(folder, "bad.py").write_text("def f(memory):\n    memory.mul_(0.5)\n    return memory\n")
    return {
        "libcst.parse_module of every file": [sys.executable, "-c", PARSE, *files],
        "cold, findings": [*HECATE, "--no-cache", corpus],
        "cold, findings and fixes": [*HECATE, "--no-cache", "--unsafe-fixes", "--diff", corpus],
        "warm": [*HECATE, corpus],
        "one small file, no candidate": [*HECATE, "--no-cache", "clean.py"],
        "one small file, from the cache": [*HECATE, "bad.py"],
        "one small file, with a finding": [*HECATE, "--no-cache", "bad.py"],
    }


def peers_of(folder: str | None, corpus: str) -> dict[str, list[str]]:
    """The commands of the peers that are there."""
    wanted = {"fixit": ["lint", corpus], "torchfix": [corpus]}
    if folder is None:
        return {}
    paths = {name: os.path.join(folder, name) for name in wanted}
    return {name: [path, *wanted[name]] for name, path in paths.items() if os.path.exists(path)}


def one_more_rule(corpus: str) -> dict[str, float]:
    """What each rule's own `nominate` costs of a cold run, in percent: the median and the dearest."""
    from hecate_lint.facts import File
    from hecate_lint.registry import built_in
    from hecate_lint.source import Source

    def used() -> float:
        own = resource.getrusage(resource.RUSAGE_SELF)
        return own.ru_utime + own.ru_stime

    spent = dict.fromkeys((rule.id for rule in built_in()), 0.0)
    start = used()
    for path in sorted(Path(corpus).rglob("*.py")):
        source = Source(str(path), path.read_bytes())
        file = File(source, source.parse())
        for rule in built_in():
            before = used()
            if not rule.words or not rule.words.isdisjoint(file.index.words):
                list(rule.nominate(file))
            spent[rule.id] += used() - before
    whole = used() - start
    shares = sorted(100 * each / whole for each in spent.values())
    return {
        "rules": len(shares),
        "median_percent": round(statistics.median(shares), 3),
        "above_one_percent": sum(share > 1 for share in shares),
        "dearest_percent": round(shares[-1], 2),
    }


def measured(given: argparse.Namespace, torch: Path, folder: str) -> dict[str, Any]:
    """Everything that the page shows."""
    for name in FOLDERS:
        shutil.copytree(torch / name, Path(folder, "corpus", name), ignore=shutil.ignore_patterns("__pycache__"))
    corpus = os.path.join(folder, "corpus")
    files = [str(path) for path in sorted(Path(corpus).rglob("*.py"))]
    runs = commands(folder, files)
    cost(runs["warm"], folder)  # fills the cache
    cost(runs["one small file, from the cache"], folder)
    rounds = [{name: typical(name, command, folder) for name, command in runs.items()} for _ in range(given.rounds)]
    peers = {name: cost(command, folder) for name, command in peers_of(given.peers, corpus).items()} or kept_peers()
    whole = cost([*HECATE, "--no-cache", str(torch)], folder)
    parse, _, fixes, warm = list(runs)[:4]

    def median(name: str, of: str = "") -> float:
        return round(statistics.median(one[name].cpu_s / (one[of].cpu_s if of else 1) for one in rounds), 4)

    return {
        "machine": {"processor": platform.machine(), "processors": os.cpu_count(), "python": platform.python_version()},
        "load": [round(each, 1) for each in os.getloadavg()],
        "rounds": given.rounds,
        "corpus": {"folders": list(FOLDERS), "files": len(files), "bytes": sum(map(os.path.getsize, files))},
        "cpu_s": {name: median(name) for name in runs},
        "of_parse": {name: median(name, parse) for name in list(runs)[1:4]},
        "peak_mb": {name: round(max(one[name].peak_mb for one in rounds)) for name in runs},
        "peers": {
            name: {
                "cpu_s": round(one.cpu_s, 2),
                "over_cold_with_fixes": round(one.cpu_s / median(fixes), 1),
                "over_warm": round(one.cpu_s / median(warm)),
                "status": one.status,
            }
            for name, one in peers.items()
        },
        "whole_torch": {"cpu_s": round(whole.cpu_s, 1), "peak_mb": round(whole.peak_mb), "status": whole.status},
        "one_rule": one_more_rule(corpus),
    }


def page(found: dict[str, Any]) -> str:
    """The Markdown page of the figures."""
    machine, corpus, one = found["machine"], found["corpus"], found["one_rule"]
    ratios = found["of_parse"]
    rows = [(name, cpu, ratios.get(name, ""), found["peak_mb"][name]) for name, cpu in found["cpu_s"].items()]
    rows += [(name, each["cpu_s"], "", "") for name, each in found["peers"].items()]
    rows += [("cold, the whole of torch", found["whole_torch"]["cpu_s"], "", found["whole_torch"]["peak_mb"])]
    lines = ["| what | CPU s | of the parse | peak MB |", "|---|--:|--:|--:|"]
    lines += [f"| {name} | {cpu} | {ratio} | {peak} |" for name, cpu, ratio, peak in rows]
    peers = [
        f"* {name} takes {each['over_cold_with_fixes']} times the CPU seconds of a cold run with fixes and"
        f" {each['over_warm']} times those of a warm one."
        for name, each in found["peers"].items()
    ]
    return "\n".join(
        [
            "# How fast the linter is",
            "",
            "Generated by `python benchmarks/lint.py --page` from `benchmarks/results/lint.json`,",
            f"content id `{content_id(found)}`. CPU seconds of all",
            f"processes, medians of {found['rounds']} rounds (a small file: of {SMALL_RUNS} runs in each;",
            "peers and the whole of torch: once, peers perhaps on another day); ratios are of one",
            f"round. Torch's own {', '.join(corpus['folders'])}: {corpus['files']} files, {corpus['bytes']:,} bytes;",
            f"{machine['processor']}, {machine['processors']} processors, Python {machine['python']};",
            f"load of the machine beside it: {found['load'][0]}.",
            "",
            *lines,
            "",
            *peers,
            f"* One rule costs {one['median_percent']} % of a run (median of {one['rules']});"
            f" {one['above_one_percent']} cost over 1 %, at most {one['dearest_percent']} %:",
            "  rules that follow data, some that visit every definition (opt-in words among them), and",
            "  whichever first asks for a table that the others share.",
            "",
        ]
    )


def main() -> None:
    """Measure, print, and with --write keep the figures."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--peers", metavar="FOLDER")
    given.add_argument("--rounds", type=int, default=3)
    given.add_argument("--write", action="store_true")
    given.add_argument("--page", action="store_true")
    given.add_argument("--check", action="store_true")
    args = given.parse_args()
    if args.page or args.check:
        made = page(json.loads(RESULT.read_text()))
        if args.page:
            PAGE.write_text(made)
        elif PAGE.read_text() != made:
            raise SystemExit(f"{PAGE.name}: not what {RESULT.name} says; run python benchmarks/lint.py --page")
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measured(args, torch_root(), folder)
    text = json.dumps(found, indent=1) + "\n"
    sys.stdout.write(text)
    if args.write:
        RESULT.write_text(text)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
