"""Retentions with a decay of its own for every channel: columns (keys) or rows (values) of a memory.

Specs: specs/knobs/column.md, specs/knobs/row.md.
"""

from collections.abc import Mapping

import attrs

from hecate_core.gates import RETAIN, Gate
from hecate_core.knobs.retentions import NoDecay
from hecate_core.records import Tokens
from hecate_core.shapes import Float, Tensor


class ColumnDecay(NoDecay):
    """M -> M diag(retain) with one gate per key channel. Source: [2510.26692] Sec. 3."""

    gates: Mapping[str, Gate] = {"retain": attrs.evolve(RETAIN, width="K")}
    axis = "column"

    def keep(self, tokens: Tokens) -> Float[Tensor, "B H T K"]:
        """The gate itself."""
        retain: Tensor = tokens.retain
        return retain


class RowDecay(NoDecay):
    """M -> diag(retain) M with one gate per value channel. Source: [2501.00663] Eq. 32; [2504.13173] Sec. 5.4."""

    gates: Mapping[str, Gate] = {"retain": attrs.evolve(RETAIN, width="V")}
    axis = "row"

    def keep(self, tokens: Tokens) -> Float[Tensor, "B H T V"]:
        """The gate itself."""
        retain: Tensor = tokens.retain
        return retain
