"""Levels of a memory and their two clocks: token position for writing, optimizer step for updating.

A call and a chunk are no clocks, so a result never depends on how a text was cut. Level 0 is the
fastest by convention; every level reads every token.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar, cast

from attrs import Attribute, asdict, field, fields, frozen

from hecate_core.errors import CheckpointError, InputError, nearest

Reduce = Literal["sum", "mean"]
Frequency = Literal["fixed", "learned"]


def _at_least(bound: int) -> Any:
    """An attrs validator: a plain integer, no bool, not below `bound`."""

    def check(_: object, attribute: "Attribute[int]", value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < bound:
            raise InputError(f"level.{attribute.name} = {value!r}; expected an integer >= {bound}")

    return check


def _one_of(*known: str) -> Any:
    """An attrs validator: one of two words."""

    def check(_: object, attribute: "Attribute[str]", value: object) -> None:
        if value not in known:
            raise InputError(f'level.{attribute.name} = {value!r}; expected "{known[0]}" or "{known[1]}"')

    return check


def _positive(_: object, attribute: "Attribute[float]", value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise InputError(f"level.{attribute.name} = {value!r}; expected a finite number >= 0")


@frozen
class LevelSpec:
    """One level: how often it writes, updates and resets.

    * `write_period`  - in grains of tokens, >= 1; 1 writes every token;
    * `update_period` - in optimizer steps, >= 1; 1 is ordinary training;
    * `reset_period`  - in grains of tokens, >= 0; 0 never resets;
    * `reduce`        - what happens to the gradients of resting steps: "sum" or "mean";
    * `lr_scale`      - factor on the learning rate of the level's own parameters, >= 0;
    * `gates`         - per gate what the level narrows: {"write": {"high": 0.4, "init": 0.01}};
    * `frequency`     - "fixed" writes whenever due, "learned" if what was read a grain ago also says so.

    Raises InputError for anything else. Source: Nested Learning, arXiv 2512.24695, Eq. 71-72.
    """

    write_period: int = field(default=1, validator=_at_least(1))
    update_period: int = field(default=1, validator=_at_least(1))
    reset_period: int = field(default=0, validator=_at_least(0))
    reduce: Reduce = field(default="sum", validator=_one_of("sum", "mean"))
    lr_scale: float = field(default=1.0, validator=_positive)
    gates: Mapping[str, Mapping[str, float]] = field(factory=dict)
    frequency: Frequency = field(default="fixed", validator=_one_of("fixed", "learned"))


@frozen
class ChainLevel(LevelSpec):
    """One level of a chain of MLPs: `rate` > 0 lets its weights learn while reading, every `write_period` grains.

    The other fields mean what they mean for a memory; `reduce` is for both clocks. Source: [2512.24695] Eq. 70-74.
    """

    rate: float = field(default=0.0, validator=_positive)


SpecT = TypeVar("SpecT", bound=LevelSpec)


def levels_of(spec: object = None, kind: type[SpecT] = LevelSpec) -> tuple[SpecT, ...]:  # type: ignore[assignment]
    """Level specs from the shorthand: periods, mappings or specs of `kind`, in one list.

    An integer is the write and the update period; None is one level of period 1. Raises InputError
    that names `levels[i]`.
    """
    if spec is None:
        return (kind(),)
    if isinstance(spec, (str, bytes, Mapping)) or not isinstance(spec, Sequence):
        raise InputError(f"levels = {spec!r}; expected a list of periods or of level specs")
    if not spec:
        raise InputError("levels = []; expected at least one level")
    return tuple(_level(index, item, kind) for index, item in enumerate(cast("Sequence[object]", spec)))


def _level(index: int, item: object, kind: type[SpecT]) -> SpecT:
    if isinstance(item, kind):
        return item
    given: dict[str, Any] = dict(item) if isinstance(item, Mapping) else {"write_period": item, "update_period": item}
    known = [attribute.name for attribute in fields(kind)]
    for key in given:
        if key not in known:
            raise InputError(f'levels[{index}]: unknown key "{key}"{nearest(str(key), known)}')
    try:
        return kind(**given)
    except InputError as error:
        text = str(error).removeprefix("level.")
        place = f"levels[{index}]" if not isinstance(item, Mapping) else f"levels[{index}].{text.split(' ', 1)[0]}"
        raise InputError(f"{place} {text.split(' ', 1)[1]}") from None


def due_runs(position: int, length: int, period: int, grain: int) -> list[tuple[int, int, bool]]:
    """Runs `(start, stop, due)` that cover `length` tokens from `position`, offsets within the call.

    Token t writes iff `(t // grain) % period == 0`. Neighbouring runs differ in `due`, so the runs
    of one text joined over any split are the same text's runs. Raises InputError for a negative
    position or length and for a period or grain below 1.
    """
    if position < 0 or length < 0 or period < 1 or grain < 1:
        raise InputError(
            f"due_runs: position {position}, length {length}, period {period}, grain {grain}; "
            "expected position and length >= 0, period and grain >= 1"
        )
    if period == 1:
        return [(0, length, True)] if length else []
    runs: list[tuple[int, int, bool]] = []
    cycle, start = period * grain, 0
    while start < length:
        phase = (position + start) % cycle
        due = phase < grain
        stop = min(length, start + (grain if due else cycle) - phase)
        runs.append((start, stop, due))
        start = stop
    return runs


def due_before(position: int, period: int, grain: int) -> int:
    """How many of the tokens before `position` of a stream are due, as `due_runs` has it."""
    cycles, rest = divmod(position, period * grain)
    return cycles * grain + min(rest, grain)


def segments(position: int, count: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """Pieces `(start, stop, opens)` of a call of `count` tokens, cut at the absolute grid of `size` tokens.

    Offsets are within the call; `opens` says that a segment begins with the piece.
    """
    start = 0
    while start < count:
        phase = (position + start) % size
        stop = min(count, start + size - phase)
        yield start, stop, phase == 0
        start = stop


def reset_offsets(position: int, length: int, period: int, grain: int) -> list[int]:
    """Offsets in the call before whose token a level returns to its initial state; period 0: none.

    The token at stream position t > 0 with `t % (period * grain) == 0` opens a fresh context.
    """
    if position < 0 or length < 0 or period < 0 or grain < 1:
        raise InputError(
            f"reset_offsets: position {position}, length {length}, period {period}, grain {grain}; "
            "expected position, length and period >= 0, grain >= 1"
        )
    if period == 0:
        return []
    cycle = period * grain
    first = -position % cycle if position else cycle
    return list(range(first, length, cycle))


def strikes(position: int, length: int, period: int, grain: int) -> list[int]:
    """Counts of tokens, 1 to `length`, after which a clock of `period` grains strikes; period 0: never.

    It strikes whenever `t % (period * grain) == 0` tokens of the stream have been read, t > 0.
    """
    if period == 0:
        return []
    return [offset for offset in reset_offsets(position, length + 1, period, grain) if offset > 0]


@frozen
class Pulse:
    """What one optimizer step may touch; the same on every rank and never changed afterwards.

    `step` counts from 0; `update[l]` says whether level l's own parameters are due.
    """

    step: int
    update: tuple[bool, ...]


class Conductor:
    """Counts optimizer steps and makes the pulse of each: observe, then advance.

    Level l is due at step s iff `s % update_period == 0`, so step 0 fires every level. Losses,
    probes and checkpoints of step s see its pulse; `advance` is the last act of a step.
    """

    def __init__(self, levels: object = None, step: int = 0) -> None:
        self.levels: tuple[LevelSpec, ...] = levels_of(levels)
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise InputError(f"conductor.step = {step!r}; expected an integer >= 0")
        self.step = step

    def pulse(self) -> Pulse:
        """The pulse of the current step; asking twice gives the same answer."""
        return Pulse(self.step, tuple(self.step % level.update_period == 0 for level in self.levels))

    def advance(self) -> Self:
        """Go on to the next step."""
        self.step += 1
        return self

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a manifest: the step and every level's spec."""
        return {"step": self.step, "levels": [asdict(level) for level in self.levels]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; raises CheckpointError where the levels differ or it is malformed."""
        step = state.get("step")
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise CheckpointError(f"conductor.step = {step!r}; expected an integer >= 0")
        mine = self.state_dict()["levels"]
        if state.get("levels") != mine:
            raise CheckpointError(
                f"conductor.levels: the checkpoint has {state.get('levels')!r}, the model {mine!r}; "
                "build with the levels of the checkpoint"
            )
        self.step = step
