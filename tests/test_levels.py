"""Levels: specs and shorthand, the token clock, the step clock."""

from itertools import pairwise

import pytest
from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st

from hecate_core.errors import CheckpointError, InputError
from hecate_core.levels import Conductor, LevelSpec, Pulse, due_runs, levels_of, reset_offsets

PERIODS = [1, 8, 64, 512]


def test_shorthand_gives_write_and_update_period() -> None:
    assert levels_of([1, 8]) == (LevelSpec(), LevelSpec(write_period=8, update_period=8))
    assert levels_of() == (LevelSpec(),)
    mixed = levels_of([LevelSpec(reduce="mean"), {"update_period": 4}])
    assert mixed == (LevelSpec(reduce="mean"), LevelSpec(update_period=4))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([1, 0], "levels[1] = 0; expected an integer >= 1"),
        ([1, True], "levels[1] = True; expected an integer >= 1"),
        ([1, "8"], "levels[1] = '8'; expected an integer >= 1"),
        ([{"write_period": 1.5}], "levels[0].write_period = 1.5; expected an integer >= 1"),
        ([{"reset_period": -1}], "levels[0].reset_period = -1; expected an integer >= 0"),
        ([{"reduce": "max"}], 'levels[0].reduce = \'max\'; expected "sum" or "mean"'),
        ([{"lr_scale": float("nan")}], "levels[0].lr_scale = nan; expected a finite number >= 0"),
        ([{"update_perod": 2}], 'levels[0]: unknown key "update_perod"; did you mean "update_period"?'),
        ([], "levels = []; expected at least one level"),
        (8, "levels = 8; expected a list of periods or of level specs"),
        ("8", "levels = '8'; expected a list of periods or of level specs"),
    ],
)
def test_wrong_levels_are_one_line_that_names_the_place(spec: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        levels_of(spec)
    assert str(caught.value) == message


@given(position=st.integers(0, 300), length=st.integers(0, 200), period=st.integers(1, 9), grain=st.integers(1, 20))
def test_due_runs_say_for_every_token_what_the_clock_says(position: int, length: int, period: int, grain: int) -> None:
    runs = due_runs(position, length, period, grain)
    seen = [due for start, stop, due in runs for _ in range(start, stop)]
    assert seen == [((position + t) // grain) % period == 0 for t in range(length)]
    assert [start for start, _, _ in runs] == [0, *[stop for _, stop, _ in runs]][: len(runs)]
    assert all(one[2] != two[2] for one, two in pairwise(runs))  # merged


@given(cut=st.integers(0, 120), period=st.integers(1, 9), grain=st.integers(1, 20))
def test_cutting_the_call_changes_no_tokens_clock(cut: int, period: int, grain: int) -> None:
    def due(position: int, length: int) -> list[bool]:
        return [flag for a, b, flag in due_runs(position, length, period, grain) for _ in range(a, b)]

    assert due(5, cut) + due(5 + cut, 120 - cut) == due(5, 120)


@given(position=st.integers(0, 300), length=st.integers(0, 200), period=st.integers(0, 9), grain=st.integers(1, 9))
def test_resets_open_every_context_but_the_first(position: int, length: int, period: int, grain: int) -> None:
    expected = [t for t in range(length) if period and position + t > 0 and (position + t) % (period * grain) == 0]
    assert reset_offsets(position, length, period, grain) == expected


@pytest.mark.parametrize("wrong", [(-1, 4, 1, 1), (0, -1, 1, 1), (0, 4, 0, 1), (0, 4, 1, 0)])
def test_impossible_clocks_are_refused(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError):
        due_runs(*wrong)


def test_step_zero_fires_every_level_and_the_mean_is_as_published() -> None:
    conductor = Conductor(PERIODS)
    assert conductor.pulse() == Pulse(0, (True,) * 4)
    active = 0
    for _ in range(512):
        active += sum(conductor.pulse().update)
        conductor.advance()
    assert active == 512 + 64 + 8 + 1  # 1.1426 levels a step
    assert conductor.pulse().update == (True,) * 4


def test_observing_does_not_advance_and_a_pulse_cannot_change() -> None:
    conductor = Conductor([1, 3], step=1)
    assert conductor.pulse() == conductor.pulse() == Pulse(1, (True, False))
    with pytest.raises(FrozenInstanceError):
        conductor.pulse().step = 2  # type: ignore[misc]


def test_write_and_update_periods_are_separate_clocks() -> None:
    conductor = Conductor([LevelSpec(write_period=7, update_period=2)])
    flags = [conductor.advance().pulse().update[0] for _ in range(4)]
    assert flags == [False, True, False, True]


def test_a_conductor_continues_where_it_stopped_and_refuses_other_levels() -> None:
    first = Conductor([1, 4], step=7)
    second = Conductor([1, 4])
    second.load_state_dict(first.state_dict())
    assert second.pulse() == first.pulse()
    with pytest.raises(CheckpointError, match=r"conductor\.levels"):
        Conductor([1, 8]).load_state_dict(first.state_dict())
    with pytest.raises(CheckpointError, match=r"conductor\.step"):
        second.load_state_dict({**first.state_dict(), "step": -1})
