"""The exact chunk form on a CPU: speed against a public implementation, memory against autograd.

python benchmarks/affine.py [--out FILE] [--rounds 7] [--processes 3]

Writes benchmarks/results/affine.json; `python benchmarks/report.py` makes docs/performance.md of it. The peer is
titans-pytorch 0.5.5 with what it imports (benchmarks/peer.txt; `make bench` installs it beside the environment).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hecate_core import MemoryLayer, memory
from hecate_core.ops.affine import AffineTokens, affine
from hecate_core.ops.affine_reference import longest
from hecate_core.ops.decay import products

TOKENS, LONG, CHUNK = 2048, 8192, 64
WIDTHS, BATCHES, RULES = (64, 256), (1, 4), ("delta", "titans")
SPEED = (
    "Forward and backward to every input and parameter, float32, CPU seconds of one thread, all sides in one process; "
    "after one call each, rounds in which every side runs once; medians over the rounds, ratios of these medians. "
    "Several fresh processes for each size: medians over them, with the lowest and the highest ratio behind. "
    f"1 head, {TOKENS} tokens, chunk {CHUNK} (ours takes shorter chunks at width 64, which changes only speed)."
)
SIDES = {
    "function": "hecate_core.memory(): the exact rule alone; q, k, v and used gates are given",
    "module": "the memory of MemoryLayer(conv=0): projections, SiLU, normalised q and k, gates, the exact rule",
    "layer": "MemoryLayer as it comes: the same with a convolution of 4 tokens, output gate and output projection",
    "peer": (
        "titans-pytorch NeuralMemory(dim, heads=1, chunk_size, model=MemoryMLP(dim, depth=1)): norms, projections, "
        "gates, and a memory whose inner gradients are all frozen at the memory the call began with, one update per "
        "chunk, read one chunk late: that is less work than the exact rule"
    ),
}
RULE_OF = {"delta": "momentum off, against gated delta", "titans": "momentum on, against exact Titans"}
MEMORY = (
    f"Growth of the resident set over one forward and backward at {LONG} tokens, 1 head, batch 1, in a fresh process "
    "(Linux), after a call of one chunk. By autograd: the same form batched over all chunks, at our chunk length "
    f"and at {CHUNK}; the ratio is against the smaller of the two."
)
Call = Callable[[], object]


def leaves(width: int, batch: int, rule: str, count: int) -> dict[str, Tensor]:
    """Unit queries and keys, values and used gates that ask for gradients."""
    random = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(batch, 1, count, width, generator=random)

    def gate(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, 1, count, generator=random)

    made = {"q": F.normalize(normal(), dim=-1), "k": F.normalize(normal(), dim=-1), "v": normal()}
    made |= {"retain": gate(0.95, 0.999), "write": gate(0.0, 1.0)}
    if rule == "titans":
        made["momentum"] = gate(0.8, 0.99)
    return {name: one.requires_grad_() for name, one in made.items()}


def function(width: int, batch: int, rule: str) -> Call:
    given = leaves(width, batch, rule, TOKENS)
    inputs = {name: given[name] for name in ("q", "k", "v")}
    gates = {name: one for name, one in given.items() if name not in inputs}
    weight = torch.randn(batch, 1, TOKENS, width)

    def call() -> None:
        y, _ = memory(**inputs, rule=rule, gates=gates, chunk_size=CHUNK)
        torch.autograd.grad(y, list(given.values()), weight)

    return call


def module(width: int, batch: int, rule: str, *, whole: bool) -> Call:
    made = MemoryLayer(width, 1, rule=rule, chunk=CHUNK, conv=4 if whole else 0)
    x, weight = torch.randn(batch, TOKENS, width, requires_grad=True), torch.randn(batch, TOKENS, width)
    wanted = [x, *(made if whole else made.memory).parameters()]

    def call() -> None:
        y, _ = made(x) if whole else made.memory.absorb(x, made.init_state(batch))
        torch.autograd.grad(y, wanted, weight, allow_unused=True)

    return call


def peer(width: int, batch: int, rule: str, chunk: int) -> Call:
    from titans_pytorch import MemoryMLP, NeuralMemory

    network = MemoryMLP(width, depth=1)
    made = NeuralMemory(dim=width, heads=1, chunk_size=chunk, model=network, momentum=rule == "titans")
    x, weight = torch.randn(batch, TOKENS, width, requires_grad=True), torch.randn(batch, TOKENS, width)

    def call() -> None:
        y, _ = made(x)
        torch.autograd.grad(y, [x, *made.parameters()], weight, allow_unused=True)

    return call


def speeds(width: int, batch: int, rule: str, rounds: int) -> dict[str, Any]:
    """Tokens per CPU second of every side, and how many times as fast as the peer ours are."""
    torch.manual_seed(0)
    ours = {
        "function": function(width, batch, rule),
        "module": module(width, batch, rule, whole=False),
        "layer": module(width, batch, rule, whole=True),
    }
    peers = {f"peer {chunk}": peer(width, batch, rule, chunk) for chunk in (CHUNK, 16)}
    taken: dict[str, list[float]] = {name: [] for name in (*ours, *peers)}
    for turn in range(rounds + 1):
        for name, call in {**ours, **peers}.items():
            begin = time.process_time()
            call()
            if turn:  # the first round fills caches
                taken[name].append(time.process_time() - begin)
    middle = {name: statistics.median(all_rounds) for name, all_rounds in taken.items()}
    return {
        "tokens_per_cpu_second": {name: round(batch * TOKENS / one) for name, one in middle.items()},
        "times_peer": {other: {name: round(middle[other] / middle[name], 2) for name in ours} for other in peers},
    }


def repeated(width: int, batch: int, rule: str, given: argparse.Namespace) -> dict[str, Any]:
    """Medians of `speeds` over fresh processes, and the lowest and highest ratio of each kind."""
    runs = []
    for _ in range(given.processes):
        command = [sys.executable, __file__, f"--speed={width}/{batch}/{rule}", f"--rounds={given.rounds}"]
        runs.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
    speed = {
        side: round(statistics.median(run["tokens_per_cpu_second"][side] for run in runs))
        for side in runs[0]["tokens_per_cpu_second"]
    }
    times: dict[str, dict[str, dict[str, float]]] = {}
    for other, sides in runs[0]["times_peer"].items():
        found = {side: [run["times_peer"][other][side] for run in runs] for side in sides}
        times[other] = {
            side: {"median": statistics.median(all_runs), "lowest": min(all_runs), "highest": max(all_runs)}
            for side, all_runs in found.items()
        }
    about = {"width": width, "batch": batch, "rule": rule}
    return about | {"tokens_per_cpu_second": speed, "times_peer": times}


def batched(tokens: AffineTokens, first: Tensor, surprise: Tensor | None, chunk: int) -> Tensor:
    """The same chunk form, batched over all chunks, in plain torch that autograd differentiates; the reads."""
    cut = {
        name: one.unflatten(2, (-1, chunk)).flatten(0, 1).transpose(0, 1)  # N G C W
        for name, one in tokens._asdict().items()
        if one is not None
    }
    q, k, v, keep, erase, write = (cut[name] for name in ("q", "k", "v", "keep", "erase", "write"))
    momentum = cut.get("momentum")
    reach = keeps = products(keep)
    momenta = None if momentum is None else products(momentum)
    start, last = keeps[..., :1], keeps[..., -1, 1:, None]
    if momenta is not None:
        reach = keeps[..., 1:] @ momenta[..., 1:, :]
        start = torch.stack((keeps[..., 0], reach[..., 0]), -1)
        last = torch.stack((reach[..., -1, 1:], momenta[..., -1, 1:]), -1)
    lower = erase.unsqueeze(-1) * reach[..., :-1, 1:] * (k @ k.mT)
    eye = torch.eye(chunk).expand_as(lower)
    inverse = torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True)
    values = inverse @ (write.unsqueeze(-1) * v)
    erased = inverse @ _beside(k, start[..., :-1, :] * erase.unsqueeze(-1))
    left = _beside(k, last)
    joint = (first if surprise is None else torch.cat((first, surprise), -1)).flatten(0, 1)
    starts, updates = [], []
    for n in range(len(k)):
        starts.append(joint)
        updates.append(values[n] - erased[n] @ joint.mT)
        keep_n = keeps[n, :, -1, 0, None, None]
        if momenta is None:
            kept = keep_n * joint
        else:
            held, moving = joint.chunk(2, -1)
            reach_n, momentum_n = reach[n, :, -1, 0, None, None], momenta[n, :, -1, 0, None, None]
            kept = torch.cat((keep_n * held + reach_n * moving, momentum_n * moving), -1)
        joint = kept + updates[-1].mT @ left[n]
    inside = reach[..., 1:, 1:] * (q @ k.mT)
    y = _beside(q, start[..., 1:, :]) @ torch.stack(starts).mT + inside @ torch.stack(updates)
    reads: Tensor = y.transpose(0, 1).flatten(1, 2).unflatten(0, tokens.v.shape[:2])
    return reads


def _beside(rows: Tensor, factors: Tensor) -> Tensor:
    return (factors.unsqueeze(-1) * rows.unsqueeze(-2)).flatten(-2)


def operands(width: int, rule: str, count: int) -> tuple[AffineTokens, Tensor, Tensor | None, list[Tensor]]:
    made = leaves(width, 1, rule, count)
    tokens = AffineTokens(
        made["q"], made["k"], made["v"], made["retain"], made["write"], made["write"], made.get("momentum"), None
    )
    first = torch.zeros(1, 1, width, width)
    return tokens, first, None if rule == "delta" else first.clone(), list(made.values())


def learning(how: str, given: tuple[AffineTokens, Tensor, Tensor | None, list[Tensor]]) -> list[Tensor]:
    """Reads and gradients of one call, by our op or by autograd with chunks of `how` tokens."""
    tokens, first, surprise, wanted = given
    if how == "ours":
        y, _, _ = affine(tokens, first, surprise, CHUNK)
    else:
        y = batched(tokens, first, surprise, int(how))
    return [y.detach(), *torch.autograd.grad(y, wanted, torch.ones_like(y))]


def agree(width: int, rule: str) -> None:
    """Both forms compute the same; else their memory says nothing."""
    given = operands(width, rule, 4 * CHUNK)
    for one, two in zip(learning("ours", given), learning(str(CHUNK), given), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-3 * float(two.abs().max()))


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak(how: str, width: int, rule: str) -> float:
    """MiB that one forward and backward adds, in this process, which should be fresh."""
    learning(how, operands(width, rule, CHUNK))
    given = operands(width, rule, LONG)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark so far
    before = resident("VmRSS")
    learning(how, given)
    return round((resident("VmHWM") - before) / 1024, 1)


def peaks(width: int, rule: str) -> dict[str, Any]:
    agree(width, rule)
    found = {}
    for how in dict.fromkeys(("ours", str(longest(width)), str(CHUNK))):
        command = [sys.executable, __file__, f"--peak={how}/{width}/{rule}"]
        found[how] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    autograd = {f"autograd, chunk {how}": one for how, one in found.items() if how != "ours"}
    ratio = round(found["ours"] / min(autograd.values()), 2)
    return {"width": width, "rule": rule, "peak_mib": {"ours": found["ours"], **autograd}, "of_autograd": ratio}


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "affine.json")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--speed", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        how, width, rule = given.peak.split("/")
        print(peak(how, int(width), rule))
        return
    if given.speed:
        width, batch, rule = given.speed.split("/")
        print(json.dumps(speeds(int(width), int(batch), rule, given.rounds)))
        return
    try:
        import titans_pytorch  # noqa: F401
    except ImportError as missing:
        raise SystemExit(
            f"benchmarks/affine.py: no peer ({missing}); `make bench` installs benchmarks/peer.txt"
        ) from None
    rows = []
    for width, batch, rule in ((w, b, r) for w in WIDTHS for b in BATCHES for r in RULES):
        rows.append(repeated(width, batch, rule, given))
        print(json.dumps(rows[-1]), flush=True)
    held = []
    for width, rule in ((w, r) for w in WIDTHS for r in RULES):
        held.append(peaks(width, rule))
        print(json.dumps(held[-1]), flush=True)
    result = {
        "schema": "hecate.benchmark/1",
        "recipe": {"speed": SPEED, "sides": SIDES, "rules": RULE_OF, "memory": MEMORY}
        | {"rounds": given.rounds, "processes": given.processes},
        "machine": {"processor": processor(), "processors": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "titans-pytorch")},
        },
        "speed": rows,
        "memory": held,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    main()
