"""Two tiny models that must learn a repeated pattern: they prove the pipeline only, attention alone passes them."""

import pytest
import torch

from hecate_core.blueprint import compose
from hecate_core.config import make_config
from hecate_core.differentiation import Tape, cut
from hecate_core.levels import Conductor
from hecate_core.model import next_token_loss
from hecate_core.optimizers import SGD

PATTERN = torch.arange(8)
STEPS = 500
LOSS = 2e-3  # nats per token after 500 steps


# Where gates start, level by level: slower levels keep more and write less.
GATES = (
    {"retain": {"init": 0.953}, "write": {"init": 0.01}},
    {"retain": {"init": 0.982}, "write": {"init": 0.0037}},
)


def levels_of(periods: list[int]) -> list[dict[str, object]]:
    return [
        {"write_period": period, "update_period": period, "gates": gates}
        for period, gates in zip(periods, GATES, strict=False)
    ]


def legacy(rule: str, periods: list[int], seed: int) -> dict[str, object]:
    """A block without residual, norm, channel, conv and rotary: logits = head(project(attention * sigmoid(memory)))."""
    return {
        "seed": seed,
        "model": {
            "width": 8, "depth": 1, "heads": 2, "vocab": 16,
            "residual": False, "norm": "none", "channel": "none",
            "composition": {"name": "mag", "gate": "sigmoid"},
            "attention": {"window": 4, "persistent": 0, "rotary": False},
            "memory": {"rule": rule, "chunk": 8, "grain": 8, "conv": 0, "levels": levels_of(periods)},
        },
    }  # fmt: skip


def final_loss(rule: str, periods: list[int], seed: int) -> tuple[float, int]:
    """Loss and right predictions of the last step, the memory carried from call to call."""
    config = make_config(legacy(rule, periods, seed))
    model = compose(config)
    levels = levels_of(periods)
    optimizer, conductor = SGD(model, levels=levels, lr=0.5), Conductor(levels)
    ids, targets = PATTERN[None], PATTERN.roll(-1)[None]
    state = model.init_state(1)
    for _ in range(STEPS):
        with Tape() as tape:
            logits, after = model(ids, state)
            loss = next_token_loss(logits, targets)
        idle = model.unreached(state.position, ids.shape[1])
        found = tape.grad(loss, optimizer.parameters, unused=idle)
        grads = {name: torch.zeros_like(optimizer.parameters[name]) if g is None else g for name, g in found.items()}
        optimizer.step(grads, conductor.pulse())
        conductor.advance()
        state = after.map(cut)
    return float(loss.detach()), int((logits.argmax(-1) == targets).sum())


@pytest.mark.parametrize("seed", range(3))
def test_spike_c_hebbian_one_level(seed: int) -> None:
    loss, right = final_loss("hebbian", [1], seed)
    assert right == 8
    assert loss < LOSS


@pytest.mark.parametrize("seed", range(3))
def test_spike_a_delta_two_levels(seed: int) -> None:
    loss, right = final_loss("delta", [1, 8], seed)
    assert right == 8
    assert loss < LOSS
