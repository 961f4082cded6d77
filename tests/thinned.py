"""The whole product for `make soak`, a cross through it for every run: cells of strategies that plugins bring."""

from typing import Any

import pytest

from hecate_core.registry import registry
from hecate_core.testing.members import Cell, cells


def thinned_cells() -> list[Any]:
    """Every cell; of a plugin's strategy one composition with all rules and one rule with all, the rest in the soak."""
    return [pytest.param(cell, marks=() if _on_the_cross(cell) else pytest.mark.soak, id=str(cell)) for cell in cells()]


def _on_the_cross(cell: Cell) -> bool:
    if cell.strategy is None or registry().find("strategy", cell.strategy).origin.distribution == "hecate-core":
        return True
    return bool(cell.composition == "mag" or cell.rule == "titans-deep")
