"""The product of compositions, rules, strategies and level schedules: all of it for `make soak`, a cross for every run.

On the cross lie one composition with all rules, and two rules with all compositions, under every schedule. Off it every
cell has one schedule in every run and the others in the soak; what only a plugin's option makes another cell is in the
soak.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from hecate_core.checking.cells import variants
from hecate_core.registry import registry
from hecate_core.testing.members import SCHEDULES, Cell, cells

# Strategies of plugins at sizes whose borders a short text crosses.
SMALL = {"tnt": {"name": "tnt", "global_chunk": 6, "local_chunks": [2, 3], "shards": [4, 6]}}
CROSS_COMPOSITION, CROSS_RULES = "mag", ("delta", "titans")


def product(*, exact: bool | None = None) -> list[Cell]:
    """Every cell of registered members, strategies of plugins made small, and compositions in each of their forms."""
    found = [Cell(one.composition, one.rule, SMALL.get(one.strategy, one.strategy)) for one in cells(exact=exact)]
    for form in variants("composition"):
        if isinstance(form, Mapping):
            found += [Cell(form, one.rule, one.strategy) for one in found if one.composition == form["name"]]
    return found


def thinned_cells() -> list[Any]:
    """Every cell; off the cross, those of plugins' strategies and of forms of a composition are for the soak."""
    return [_param((cell,), _plain(cell) or on_the_cross(cell), str(cell)) for cell in product()]


def crossed_cells(*, exact: bool | None = None) -> list[Any]:
    """Every cell; what is not on the cross is for the soak."""
    return [_param((cell,), on_the_cross(cell), str(cell)) for cell in product(exact=exact)]


def thinned_schedules(*, exact: bool | None = None) -> list[Any]:
    """Every cell with every level schedule."""
    found = []
    for index, cell in enumerate(product(exact=exact)):
        for number, schedule in enumerate(SCHEDULES):
            now = on_the_cross(cell) or (_plain(cell) and number == index % len(SCHEDULES))
            found.append(_param((cell, schedule), now, f"{cell}-{schedule}"))
    return found


def on_the_cross(cell: Cell) -> bool:
    """Whether a cell is run under every schedule every time."""
    if cell.rule is None or cell.composition == CROSS_COMPOSITION:
        return True
    forms = isinstance(cell.composition, Mapping) + isinstance(cell.strategy, Mapping)
    return cell.rule in CROSS_RULES[forms:]


def _plain(cell: Cell) -> bool:
    """A composition by its name, under a strategy of core."""
    if isinstance(cell.composition, Mapping):
        return False
    name = cell.strategy["name"] if isinstance(cell.strategy, Mapping) else cell.strategy
    return name is None or registry().find("strategy", name).origin.distribution == "hecate-core"


def _param(values: tuple[Any, ...], now: bool, name: str) -> Any:
    return pytest.param(*values, marks=() if now else pytest.mark.soak, id=name.replace(" ", ""))
