"""CPU seconds of hecate-lint on torch's own nn, optim and autograd, beside fixit, torchfix and the parse of libcst.

    python benchmarks/lint.py [--peers FOLDER] [--no-peers]

`--peers` is a folder with the commands `fixit` and `torchfix`: `python -m venv P && P/bin/pip install fixit torchfix`,
then `--peers P/bin`. The files are copied to a plain folder first, because fixit skips what a .gitignore covers.
CPU seconds of a process and all its children, user and system, one run each; no wall clock anywhere.
"""

import argparse
import importlib.util
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("nn", "optim", "autograd")
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


def torch_root() -> Path:
    """The installed torch package; nothing of it is imported."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("torch is not installed; its sources are what is linted")
    return Path(spec.origin).parent


def peers_of(folder: str | None, corpus: list[str]) -> dict[str, list[str]]:
    """The commands of the peers that are there."""
    found = {}
    for name, command in {"fixit": ["fixit", "lint", *corpus], "torchfix": ["torchfix", *corpus]}.items():
        path = os.path.join(folder, name) if folder else name
        if folder is None or os.path.exists(path):
            found[name] = [path, *command[1:]]
    return found


def show(name: str, one: Cost, parse: float) -> None:
    """One line of the table."""
    print(f"{name:44s} {one.cpu_s:9.3f} s {one.cpu_s / parse:8.3f} x parse {one.peak_mb:7.0f} MB   exit {one.status}")


def small(folder: str) -> None:
    """One small file: nothing in it, from the cache, with a finding."""
    Path(folder, "clean.py").write_text("x = 1\n" * 20)
    Path(folder, "bad.py").write_text("def f(memory):\n    memory.mul_(0.5)\n    return memory\n")
    for name, arguments in {
        "one small file, no candidate": ["--no-cache", "clean.py"],
        "one small file, with a finding": ["bad.py"],
        "one small file, from the cache": ["bad.py"],
    }.items():
        one = cost([*HECATE, *arguments], folder)
        print(f"{name:44s} {one.cpu_s:9.3f} s {'':16s} {one.peak_mb:7.0f} MB   exit {one.status}")


def main() -> None:
    """Print the machine, then every line."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--peers", metavar="FOLDER")
    given.add_argument("--no-peers", action="store_true")
    args = given.parse_args()
    torch = torch_root()
    with tempfile.TemporaryDirectory() as folder:
        for name in FOLDERS:
            shutil.copytree(torch / name, Path(folder, "corpus", name), ignore=shutil.ignore_patterns("__pycache__"))
        corpus = [os.path.join(folder, "corpus")]
        files = [str(path) for path in sorted(Path(corpus[0]).rglob("*.py"))]
        size = sum(os.path.getsize(path) for path in files)
        machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
        print(f"{machine}, {len(files)} files, {size:,} bytes")
        parse = cost([sys.executable, "-c", PARSE, *files], folder)
        show("libcst.parse_module of every file", parse, parse.cpu_s)
        cold = cost([*HECATE, "--no-cache", *corpus], folder)
        show("hecate-lint, cold, findings", cold, parse.cpu_s)
        fixes = cost([*HECATE, "--no-cache", "--unsafe-fixes", "--diff", *corpus], folder)
        show("hecate-lint, cold, findings and fixes", fixes, parse.cpu_s)
        cost([*HECATE, *corpus], folder)
        warm = cost([*HECATE, *corpus], folder)
        show("hecate-lint, warm", warm, parse.cpu_s)
        whole = cost([*HECATE, "--no-cache", str(torch)], folder)
        show("hecate-lint, cold, the whole of torch", whole, parse.cpu_s)
        small(folder)
        for name, command in ({} if args.no_peers else peers_of(args.peers, corpus)).items():
            one = cost(command, folder)
            show(name, one, parse.cpu_s)
            print(f"  {name} / cold with fixes = {one.cpu_s / fixes.cpu_s:.1f}, / warm = {one.cpu_s / warm.cpu_s:.0f}")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
