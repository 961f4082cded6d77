"""Deep memories on a CPU: tokens/s of Titans with an MLP under `frozen`, against a public implementation.

python benchmarks/deep.py [--out FILE] [--width 64] [--batch 1] [--tokens 1024] [--processes 5]

The peer is titans-pytorch 0.5.5 (`pip install --no-deps titans-pytorch==0.5.5` and what it imports); without it the
other lines are measured.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hecate_titans.deep import titans_deep
from torch import Tensor, nn

from hecate_core.knobs.activations import ACTIVATIONS, with_slope
from hecate_core.ops.decayed_linear import Decays, Reads, decayed_linear, decays
from hecate_core.parameters import RuleParams
from hecate_core.records import Tokens
from hecate_core.strategies.frozen import Frozen

ROUNDS, EXPANSION = 9, 4
RECIPE = (
    "Eager, forward and backward, float32, CPU time of one thread, fastest of interleaved rounds; every side makes q,"
    " k, v and three gates from the same activations by plain projections. Two layers, GELU, expansion 4, momentum. "
    "The peer takes every inner gradient at the memory that the whole call began with and reads the memory of the "
    "chunk before; ours takes them at each chunk's start and reads after each token. 'peer, gradients per chunk' is "
    "the same class with batch_size = chunk. 'by hand' is our memory written for this network alone, around the same "
    "op. Peak memory: growth of the resident set over one call in a fresh process (Linux), after a call of one chunk. "
    "Speeds and ratios are medians over fresh processes, with the lowest and highest ratio behind."
)


class Ours(nn.Module):
    """Projections, gates, and the memory by `spread`."""

    def __init__(self, width: int, chunk: int, norm: bool) -> None:
        super().__init__()
        self.rule = titans_deep(norm=norm, residual=norm)
        self.params = RuleParams(self.rule, {"H": 1, "K": width, "V": width})
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.gate = nn.Linear(width, 3)
        self.strategy = Frozen(chunk=chunk)

    def tokens(self, x: Tensor) -> Tokens:
        x = F.rms_norm(x, x.shape[-1:])
        q, k, v = self.project(x).unsqueeze(1).chunk(3, -1)
        raw = self.gate(x).transpose(1, 2).unbind(1)
        ranges = (self.rule.gates[name] for name in ("retain", "write", "momentum"))
        retain, write, momentum = (gate.used(one.unsqueeze(1)) for gate, one in zip(ranges, raw, strict=True))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return Tokens(q=q, k=k, v=v, retain=retain, write=write, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        params = self.params.record()
        state = self.strategy.init_state(self.rule, params, x.shape[0])
        y, _ = self.strategy(self.rule, params, self.tokens(x), state)
        return y.squeeze(1)


class ByHand(Ours):
    """The same two-layer GELU memory without structures, weights or forms: the same op, called directly."""

    def forward(self, x: Tensor) -> Tensor:
        tokens, chunk, act = self.tokens(x), self.strategy.chunk, ACTIVATIONS["gelu"]
        made = self.params.record()
        batch = x.shape[0]
        first, second = (made[name].expand(batch, -1, -1, -1) for name in ("w1", "w2"))
        z1, z2 = (torch.stack((w, torch.zeros_like(w)), 2) for w in (first, second))
        gates = (one.unflatten(2, (-1, chunk)) for one in (tokens.retain, tokens.momentum))
        retain, momentum = gates
        shares = zip(*(one.unbind(2) for one in decays(retain, momentum, None)), strict=True)
        columns = (one.split(chunk, 2) for one in (tokens.q, tokens.k, tokens.v, tokens.write))
        reads = []
        for (q, k, v, write), share in zip(zip(*columns, strict=True), shares, strict=True):
            spread = Decays._make(share)
            outer = k @ first.mT
            hidden, slope = with_slope(act, outer)
            step = -write.unsqueeze(-1)
            error = hidden @ second.mT - v
            inner = slope * (error @ second)
            y, z1, first = decayed_linear(Reads(q, step * inner, k), z1, spread)
            y, z2, second = decayed_linear(Reads(act.value(y), step * error, hidden), z2, spread)
            reads.append(y)
        return torch.cat(reads, 2).squeeze(1)


def peer(width: int, chunk: int, norm: bool, batch_size: int | None = None) -> nn.Module | None:
    try:
        from titans_pytorch import NeuralMemory
    except ImportError:
        return None
    options = {"depth": 2, "expansion_factor": float(EXPANSION)}
    made: nn.Module = NeuralMemory(
        dim=width, chunk_size=chunk, batch_size=batch_size, momentum=True, qk_rmsnorm=True,
        mem_model_norm_add_residual=norm, default_model_kwargs=options,
    )  # fmt: skip
    return made


def contenders(width: int, chunk: int, norm: bool) -> dict[str, nn.Module | None]:
    made: dict[str, nn.Module | None] = {"generic": Ours(width, chunk, norm)}
    if not norm:
        made["by hand"] = ByHand(width, chunk, norm)
    made["peer"] = peer(width, chunk, norm)
    made["peer, gradients per chunk"] = peer(width, chunk, norm, chunk)
    return made


def learning(module: nn.Module, x: Tensor) -> None:
    y = module(x)
    y = y[0] if isinstance(y, tuple) else y
    y.square().sum().backward()


def seconds(call: Callable[[], None]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def measured(width: int, batch: int, tokens: int, chunk: int, norm: bool) -> dict[str, float]:
    """Tokens/s forward and backward of every contender, rounds interleaved."""
    x = torch.randn(batch, tokens, width, requires_grad=True)
    calls = {name: (lambda m=one: learning(m, x)) for name, one in contenders(width, chunk, norm).items() if one}
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            best[name] = min(best[name], seconds(call))
    return {name: round(batch * tokens / one) for name, one in best.items()}


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak(name: str, width: int, batch: int, tokens: int, chunk: int, norm: bool) -> float:
    """MiB that one forward and backward adds, in this process, which should be fresh."""
    module = contenders(width, chunk, norm)[name]
    assert module is not None
    x = torch.randn(batch, tokens, width, requires_grad=True)
    learning(module, x[:, :chunk])
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark so far
    before = resident("VmRSS")
    learning(module, x)
    return round((resident("VmHWM") - before) / 1024, 1)


def speeds(given: argparse.Namespace, size: list[str], chunk: int, norm: bool) -> list[dict[str, float]]:
    """What `measured` says in each of several fresh processes: where memory lies moves a ratio by some percent."""
    command = [sys.executable, __file__, *size, f"--speed={chunk}/{norm}"]
    runs = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(given.processes))
    return [json.loads(run.stdout.splitlines()[-1]) for run in runs]


def ratio(runs: list[dict[str, float]], other: str) -> dict[str, float]:
    """How many times as fast as another side ours is, over all processes."""
    found = [round(run["generic"] / run[other], 2) for run in runs]
    return {"median": statistics.median(found), "lowest": min(found), "highest": max(found)}


def rows_of(given: argparse.Namespace, size: list[str], chunk: int, norm: bool) -> Iterator[dict[str, Any]]:
    """Every contender's speed and memory, and the ratios of ours."""
    runs = speeds(given, size, chunk, norm)
    for name in runs[0]:
        command = [sys.executable, __file__, *size, f"--peak={name}/{chunk}/{norm}"]
        grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        speed = round(statistics.median(run[name] for run in runs))
        others = [other for other in runs[0] if name == "generic" != other]
        yield {
            "chunk": chunk, "norm and residual": norm, "name": name, "tokens/s": speed, "peak MiB": grown,
            **{f"times {other}": ratio(runs, other) for other in others},
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--speed", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if given.speed:
        chunk, norm = given.speed.split("/")
        print(json.dumps(measured(given.width, given.batch, given.tokens, int(chunk), norm == "True")))
        return
    if given.peak:
        name, chunk, norm = given.peak.split("/")
        print(peak(name, given.width, given.batch, given.tokens, int(chunk), norm == "True"))
        return
    size = [f"--width={given.width}", f"--batch={given.batch}", f"--tokens={given.tokens}"]
    rows: list[dict[str, Any]] = []
    for chunk in (16, 64):
        for norm in (False, True):
            for row in rows_of(given, size, chunk, norm):
                rows.append(row)
                print(row, flush=True)
    if given.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        about = {"schema": "hecate.benchmark/1", "recipe": RECIPE, "torch": torch.__version__}
        about["commit"] = commit.stdout.strip()
        sizes = {"width": given.width, "batch": given.batch, "tokens": given.tokens}
        counts = {"rounds": ROUNDS, "processes": given.processes}
        result = about | {"python": platform.python_version()} | counts | sizes | {"measurements": rows}
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
