"""One build step as a CUDA graph: the same numbers, and what launching costs in a step and in an op."""

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hecate_core.backends import pair_for
from hecate_core.building import Build
from hecate_core.config import Config, make_config
from hecate_core.model import next_token_loss
from hecate_core.ops.affine import AffineTokens, affine

from .stage import Stage

WARM = 3
CALLS = 300


def tiny(stage: Stage, path: str) -> Config:
    """A model small enough that launching shows."""
    size = 32 if stage.small else 128
    return make_config(
        {
            "data": {"path": path, "batch": 2, "length": 24 if stage.small else 256},
            "model": {
                "width": size, "heads": 2, "depth": 1 if stage.small else 2,
                "memory": {"rule": "titans", "backend": stage.backend, "chunk": 16 if stage.small else 64},
            },
            "run": {"steps": 1, "device": stage.device.type},
        },
        place="gpu proof",
    )  # fmt: skip


def build_step(stage: Stage, path: str) -> dict[str, Any]:
    """Loss and gradients of one step, plainly and replayed; how long each takes; whether all are the same bits."""
    made = Build(tiny(stage, path))
    chunk = made.stream.next_chunk()
    ids, targets = chunk.input.to(stage.device), chunk.target.to(stage.device)
    parameters = list(made.optimizer.parameters.values())
    state = made.state

    def step() -> list[Tensor]:
        logits, _ = made.model(ids, state)
        loss = next_token_loss(logits, targets)
        return [loss, *torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)]

    for _ in range(WARM):  # compiles and loads every kernel, which a capture may not
        plain = step()
    kept: list[Tensor] = []
    replay = stage.capture(lambda: kept.extend(step()) if not kept else _into(kept, step()))
    replay()
    stage.wait()
    same = all(torch.equal(one.detach(), other.detach()) for one, other in zip(plain, kept, strict=True))
    plain_ms, replay_ms = stage.clock(step).median, stage.clock(replay).median
    return {
        "same_bits": same,
        "plain_ms": plain_ms,
        "replay_ms": replay_ms,
        "share_of_launching": max(0.0, 1.0 - replay_ms / plain_ms),
    }


def _into(kept: list[Tensor], fresh: list[Tensor]) -> None:
    for place, one in enumerate(fresh):
        kept[place] = one


def launch_cost(stage: Stage) -> dict[str, Any]:
    """Microseconds of the CPU per call of a small op, without waiting for the card: forward, and with a backward."""
    width, count = 16, CALLS if not stage.small else 3
    q, k, v = (F.normalize(torch.randn(1, 1, 16, width, device=stage.device), dim=-1) for _ in range(3))
    gates = [torch.rand(1, 1, 16, device=stage.device) for _ in range(3)]
    memory = torch.zeros(1, 1, width, width, device=stage.device)
    pair = pair_for("affine", stage.backend)
    learned = [one.clone().requires_grad_() for one in (q, k, v)]

    def forward() -> object:
        return affine(AffineTokens(q, k, v, *gates, None, None), memory, None, 16, pair)

    def both() -> object:
        y = affine(AffineTokens(*learned, *gates, None, None), memory, None, 16, pair)[0]
        return torch.autograd.grad(y.sum(), learned)

    found = {}
    for name, call in (("forward_us", forward), ("forward_backward_us", both)):
        for _ in range(WARM):
            call()
        stage.wait()
        begin = time.perf_counter()
        for _ in range(count):
            call()
        found[name] = 1e6 * (time.perf_counter() - begin) / max(count, 1)
        stage.wait()
    return found
