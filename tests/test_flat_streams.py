"""A long stream costs what a short one costs: memory, open files and threads stay flat, the metrics grow alone."""

import gc
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from hecate_core import building
from hecate_core.building import Build, build
from hecate_core.config import Config, make_config
from hecate_core.corpus import Corpus, open_corpus
from hecate_core.run_folder import RunFolder

BATCH, LENGTH = 8, 128
SHORT, LONG = 20_000, 1_000_000  # streamed tokens
PENDING = 12  # parameters of the one resting level, with room to spare
KIB = 8 << 10  # what allocators and caches may still move after the warm-up, in KiB


def config(tokens: int) -> Config:
    return make_config({
        "data": {"batch": BATCH, "length": LENGTH, "context": 4 * LENGTH},
        "model": {
            "width": 8, "depth": 1, "heads": 1, "attention": {"window": 8, "persistent": 1},
            "memory": {"rule": "titans", "chunk": 32, "levels": [{}, {"write_period": 2, "update_period": 3}]},
        },
        "schedule": {"decay": "constant"},
        "run": {"steps": tokens // (BATCH * LENGTH), "eval_interval": 0, "checkpoint_interval": 25, "keep": 2},
    })  # fmt: skip


@pytest.fixture(autouse=True)
def corpus(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    whole = open_corpus()
    small = Corpus("small", whole.train[:50_000], (0,), whole.heldout[:1], "0" * 64)
    monkeypatch.setattr(building, "open_corpus", lambda _: small)
    return small


def resident() -> int:
    """Resident memory in KiB, after a collection."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def used() -> dict[str, int]:
    gc.collect()
    tensors = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
    return {"files": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(), "tensors": tensors}


def flat(counts: list[dict[str, int]]) -> bool:
    """Files and threads stay what they were; tensors too, but for the gradients that a resting level has pending."""
    first = counts[0]
    return all(
        one["files"] == first["files"]
        and one["threads"] == first["threads"]
        and one["tensors"] - first["tensors"] <= PENDING  # fewer: what earlier tests left is collected meanwhile
        for one in counts
    )


def streamed(tokens: int, place: Path) -> tuple[list[dict[str, int]], list[int]]:
    """Counts and resident memory at a quarter, the half, three quarters and nearly the end of a build."""
    steps = config(tokens).run.steps
    marks = {steps // 4, steps // 2, 3 * steps // 4, steps - 2}
    counts: list[dict[str, int]] = []
    memory: list[int] = []

    def watch(record: dict[str, Any]) -> None:
        if record["step"] in marks:
            memory.append(resident())
            counts.append(used())

    build(config(tokens), RunFolder(place, keep=2), watch=watch)
    return counts, memory


def test_files_threads_and_tensors_stay_flat(tmp_path: Path) -> None:
    counts, _ = streamed(SHORT, tmp_path / "run")
    assert len(counts) == 4
    assert flat(counts), counts
    assert sorted(one.name for one in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-19"]


@pytest.mark.soak
def test_a_million_tokens_cost_what_a_few_cost(tmp_path: Path) -> None:
    counts, memory = streamed(LONG, tmp_path / "run")
    assert flat(counts), counts
    assert max(memory) - memory[0] < KIB, memory
    checkpoints = list((tmp_path / "run" / "checkpoints").iterdir())
    assert len(checkpoints) == 2, "only the last ones stay"
    sizes = {sum(one.stat().st_size for one in folder.glob("*.safetensors")) for folder in checkpoints}
    assert max(sizes) < 1.05 * min(sizes), "a checkpoint grows by pending gradients at most"


def test_a_leak_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    ordinary = Build.step

    def step(self: Build) -> Any:
        kept.append((self.state, open(os.devnull)))  # noqa: SIM115 - the leak
        return ordinary(self)

    monkeypatch.setattr(Build, "step", step)
    counts, _ = streamed(SHORT, tmp_path / "run")
    for _, file in kept:
        file.close()
    assert not flat(counts)
    assert counts[-1]["files"] > counts[0]["files"]
    assert counts[-1]["tensors"] - counts[0]["tensors"] > PENDING
