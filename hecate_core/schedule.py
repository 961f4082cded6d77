"""The learning rate over a run: linear warm-up, then a cosine (or nothing) down to a floor."""

import math

from hecate_core.config import Schedule


def rate(schedule: Schedule, step: int, steps: int) -> float:
    """The factor on the optimizer's peak rate at `step` (from 0) of a run of `steps`."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    if schedule.decay == "constant":
        return 1.0
    span = max(1, steps - schedule.warmup)
    done = min(1.0, (step - schedule.warmup) / span)
    return schedule.floor + (1.0 - schedule.floor) * 0.5 * (1.0 + math.cos(math.pi * done))
