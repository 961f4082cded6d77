"""What anchors and late reads of a strategy mean for a level's clocks: resets that fit, writes that are read.

Spec: specs/levels.md, "Anchors and clocks".
"""

import math
from collections.abc import Iterable
from typing import Any

from hecate_core.errors import CompositionError
from hecate_core.levels import LevelSpec, due_before, reset_offsets
from hecate_core.protocols import MemoryRule, Strategy


def demand_resets_on_anchors(strategy: Strategy, rule: MemoryRule, spec: LevelSpec, grain: int, place: str) -> None:
    """CompositionError for a periodic reset that would fall between two anchors of the strategy.

    Where a form does not depend on its anchor and the strategy reads like the loop, there is nothing to fall between.
    """
    anchors: int = getattr(strategy, "anchors", 1)
    if not spec.reset_period or grain % anchors == 0 or _never_asks(strategy, rule):
        return
    unit = spec.write_period * anchors // math.gcd(anchors, grain)
    if spec.reset_period % unit == 0:
        return
    below = spec.reset_period // unit * unit
    fitting = f"{below} or {below + unit}" if below else f"{unit}, or a grain of {anchors}"
    raise CompositionError(
        f"{place}.reset_period = {spec.reset_period}: with grain {grain} a reset falls inside a chunk of strategy "
        f'"{strategy.name}", whose gradients are taken at the memory of every {anchors}th written token; '
        f"expected {fitting}"
    )


def fitting_grain(strategy: Strategy, rule: MemoryRule, specs: Iterable[LevelSpec], grain: int) -> int:
    """The grain, or where a level's reset would fall between two anchors, as many tokens as from one to the next."""
    try:
        for spec in specs:
            demand_resets_on_anchors(strategy, rule, spec, grain, "levels")
    except CompositionError:
        anchors: int = getattr(strategy, "anchors", 1)
        return anchors
    return grain


def _never_asks(strategy: Strategy, rule: MemoryRule) -> bool:
    """Whether no read depends on where the anchors are."""
    form: Any = None if strategy.needs is None else rule.offers(strategy.needs)
    return bool(getattr(strategy, "inherits", False) and getattr(form, "exact", False))


def reads_its_own_writes(
    position: int, count: int, spec: LevelSpec, grain: int, *, late: int = 0, segment: int = 0
) -> bool:
    """Whether a call of `count` tokens from `position` reads anything of a level that it wrote itself.

    `late`: written tokens on whose next multiple a strategy reads what was written (0: at once). `segment`: tokens at
    whose borders alone a composition looks at what was written (0: at every token, after its write).
    """
    resets = [position + at for at in reset_offsets(position, count, spec.reset_period, grain)]
    end = position + count
    for start, stop in zip((position, *resets), (*resets, end), strict=True):
        if segment:
            looked = min(stop, end - 1) // segment * segment
        else:
            looked = stop - 1 if late else stop
        if looked <= start:
            continue
        cycle = spec.reset_period * grain
        opened = due_before(start // cycle * cycle if cycle else 0, spec.write_period, grain)
        before, seen = (due_before(at, spec.write_period, grain) - opened for at in (start, looked))
        if (seen // late * late if late else seen) > before:
            return True
    return False
