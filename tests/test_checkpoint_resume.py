"""A run stopped in the middle of every period goes on bit for bit: all parts through one checkpoint."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hecate_core.checkpoint import CheckpointFolder
from hecate_core.generators import Generators
from hecate_core.levels import Conductor, LevelSpec
from hecate_core.optimizers import SGD, AdamW, LevelOptimizer
from hecate_core.stream import ContextStream

TEXT = bytes((i * i * 31 + i // 7) % 64 for i in range(997))
LEVELS = [LevelSpec(), LevelSpec(update_period=4, reduce="mean"), LevelSpec(update_period=7)]


class Net(nn.Module):
    """Embedding, one linear map per level, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 8)
        self.maps = nn.ModuleList(nn.Linear(8, 8) for _ in LEVELS)
        for level, module in enumerate(self.maps):
            module.hecate_level = level  # type: ignore[assignment]
        self.head = nn.Linear(8, 64)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for module in self.maps:
            x = x + torch.tanh(module(x))
        return torch.as_tensor(self.head(x))


class Run:
    """A build loop in small: everything that a step depends on, and nothing else."""

    def __init__(self, kind: str) -> None:
        self.generators = Generators(3)
        self.model = Net()
        for parameter in self.model.parameters():
            nn.init.normal_(parameter, std=0.1, generator=self.generators.torch())
        self.optimizer: LevelOptimizer = (
            AdamW(self.model, levels=LEVELS, lr=0.01)
            if kind == "adamw"
            else SGD(self.model, levels=LEVELS, lr=0.1, momentum=0.9, clip=1.0)
        )
        self.conductor = Conductor(LEVELS)
        self.stream = ContextStream(TEXT, batch=3, chunk_tokens=16)

    def step(self) -> float:
        chunk = self.stream.next_chunk(self.generators.stream.randint(8, 24))
        noise = 0.01 * torch.randn(chunk.input.shape, generator=self.generators.torch()).mean()
        logits = self.model(chunk.input)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), chunk.target.flatten()) * (1 + noise)
        names, leaves = zip(*self.model.named_parameters(), strict=True)
        grads = dict(zip(names, torch.autograd.grad(loss, leaves), strict=True))
        self.optimizer.step(grads, self.conductor.pulse(), lr=0.01 * (1 + self.generators.python.random()))
        self.conductor.advance()
        return float(loss.detach())

    def save(self, folder: CheckpointFolder) -> None:
        tensors, counters = self.optimizer.state_dict()
        step = self.conductor.step
        parts = {"model": self.model.state_dict(), "optimizer": tensors, "generators": self.generators.state()}
        cursor = self.stream.cursor(pulse_id=step).as_dict()
        meta = {"optimizer": counters, "conductor": self.conductor.state_dict(), "cursor": cursor}
        folder.save(step, parts, meta)

    def restore(self, folder: CheckpointFolder, step: int) -> None:
        parts, meta = folder.load(step)
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"], meta["optimizer"])
        self.generators.restore(parts["generators"])
        self.conductor.load_state_dict(meta["conductor"])
        self.stream.restore(meta["cursor"], pulse_id=self.conductor.step)

    def everything(self) -> dict[str, Any]:
        tensors, counters = self.optimizer.state_dict()
        parts = {**self.model.state_dict(), **tensors, **self.generators.state()}
        return {name: tensor.tolist() for name, tensor in parts.items()} | {
            "counters": counters,
            "cursor": self.stream.cursor(),
            "conductor": self.conductor.state_dict(),
        }


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_stopped_at_ten_random_steps_the_next_fifty_are_bit_identical(kind: str, tmp_path: Path) -> None:
    stops = sorted(random.Random(8).sample(range(1, 60), 10))
    folder = CheckpointFolder(tmp_path, keep=0)
    whole, losses, states = Run(kind), [], {}
    for step in range(stops[-1] + 50):
        if step in stops:
            whole.save(folder)
        if step - 50 in stops:
            states[step - 50] = whole.everything()
        losses.append(whole.step())
    states[stops[-1]] = whole.everything()
    assert any(stop % 4 and stop % 7 for stop in stops)  # mid-period, with buffers part full
    for stop in stops:
        again = Run(kind)
        again.restore(folder, stop)
        assert [again.step() for _ in range(50)] == losses[stop : stop + 50]
        assert again.everything() == states[stop]
