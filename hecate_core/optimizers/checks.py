"""What optimizers are given, checked: options, counters of a checkpoint."""

from collections.abc import Mapping
from typing import Any, TypeVar

from hecate_core.errors import CheckpointError, InputError

LARGEST = 1e9  # rate x the level's factor x decay, over 1 - beta, still fits a float32

Level = TypeVar("Level", int, int | None)


def at_least_zero(name: str, value: object) -> float:
    """The value as a float; InputError unless it is a number between 0 and `LARGEST`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise InputError(f"optimizer.{name} = {value!r}; expected a finite number >= 0")
    if value > LARGEST:
        raise InputError(f"optimizer.{name} = {value!r}; expected at most {LARGEST:g}, which float32 can go on with")
    return float(value)


def below_one(name: str, value: object) -> float:
    """The value as a float; InputError unless it is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise InputError(f"optimizer.{name} = {value!r}; expected a number in [0, 1)")
    return float(value)


def label(level: int | None) -> str:
    """What a level is called in counters; None is what is updated every step."""
    return "shared" if level is None else f"level{level}"


def counts(counters: Mapping[str, Any], key: str, model: dict[Level, int]) -> dict[Level, int]:
    """The counters of `key` under the levels of `model`; CheckpointError unless they match exactly."""
    found = counters.get(key)
    names = {label(level): level for level in model}
    if not isinstance(found, Mapping) or set(found) != set(names):
        raise CheckpointError(f"optimizer.{key} = {found!r}; expected counts of {', '.join(names)}")
    for name, count in found.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise CheckpointError(f"optimizer.{key}.{name} = {count!r}; expected an integer >= 0")
    return {level: found[name] for name, level in names.items()}
