"""Gates: per-token numbers whose used value cannot leave the range that a component declares.

The raw value is free, `Gate.used` maps it into the range by a scaled sigmoid. A range can be narrowed
by a preset, never widened.
"""

import math
from collections.abc import Mapping

import attrs
import torch

from hecate_core.errors import CompositionError, nearest
from hecate_core.shapes import Float, Tensor


@attrs.frozen
class Gate:
    """One declared gate: range [low, high], the value a fresh head produces, and its width.

    `width` is None for one number per head, or a width letter ("K", "V", "M") for one per channel.
    `domain` is what the mathematics allows (0 and 1 included); functions of used values accept all of it.
    """

    low: float
    high: float
    init: float
    width: str | None = None
    domain: tuple[float, float] = (0.0, 1.0)

    def __attrs_post_init__(self) -> None:
        low, high = self.domain
        if not (low <= self.low < self.high <= high and self.low <= self.init <= self.high):
            raise CompositionError(
                f"gate [{self.low}, {self.high}] with init {self.init}: "
                f"expected {low} <= low < high <= {high} and low <= init <= high"
            )

    def used(self, raw: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The value a rule sees: low + (high - low) * sigmoid(raw), in raw's dtype.

        The clamp is a contract about rounding, not the bound; NaN stays NaN.
        """
        return (self.low + (self.high - self.low) * torch.sigmoid(raw)).clamp(self.low, self.high)

    def raw_init(self) -> float:
        """The raw value whose used value is `init`, kept where a sigmoid still has a slope."""
        share = (self.init - self.low) / (self.high - self.low)
        share = min(max(share, 1e-4), 1.0 - 1e-4)
        return math.log(share / (1.0 - share))

    def narrowed(self, *, low: float | None = None, high: float | None = None, init: float | None = None) -> "Gate":
        """The same gate with a smaller range or another init; widening raises CompositionError."""
        new_low, new_high = self.low if low is None else low, self.high if high is None else high
        if new_low < self.low or new_high > self.high:
            raise CompositionError(
                f"gate range [{new_low}, {new_high}] is wider than the declared [{self.low}, {self.high}]; "
                "a range can only be narrowed"
            )
        start = min(max(self.init, new_low), new_high) if init is None else init
        return attrs.evolve(self, low=new_low, high=new_high, init=start)


def narrowed_gates(gates: Mapping[str, Gate], limits: Mapping[str, Mapping[str, float]], place: str) -> dict[str, Gate]:
    """`gates` with some narrowed: `limits` maps a gate to low, high, init. CompositionError for anything else."""
    made = dict(gates)
    for name, given in limits.items():
        if name not in made:
            raise CompositionError(f'{place}: no gate "{name}" to narrow{nearest(name, made)}')
        unknown = sorted(set(given) - {"low", "high", "init"})
        if unknown:
            raise CompositionError(f'{place}: gate {name} has no "{unknown[0]}"; expected low, high or init')
        try:
            made[name] = made[name].narrowed(**given)
        except CompositionError as error:
            raise CompositionError(f"{place}: {name}: {error}") from None
    return made


def steady_write(momentum: float) -> float:
    """The largest step along the error of unit keys that no order of them can make grow, under a momentum below 1.

    2 (1 - m)^2 / (1 + m), for memories that keep all (specs/rules/titans.md, Eq. 5).
    """
    return 2.0 * (1.0 - momentum) ** 2 / (1.0 + momentum)


# The field's three gates by role; a component takes one of these or narrows it.
RETAIN = Gate(0.0, 0.9999, init=0.98)
WRITE = Gate(0.0, 1.0, init=0.5, domain=(0.0, math.inf))
MOMENTUM = Gate(0.0, 0.99, init=0.9)
