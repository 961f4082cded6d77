"""Quantiles of Student's t: how far from zero the mean of a few differences may lie by chance."""

import math

from hecate_core.errors import InputError

HALVINGS = 60  # of the angle; the quantile is then exact to the last digits of a double


def two_sided(share: float, freedom: int) -> float:
    """The t with `share` of the distribution with `freedom` degrees of freedom between -t and t."""
    if not 0 < share < 1 or freedom < 1:
        raise InputError(
            f"t quantile: share {share}, {freedom} degrees of freedom; expected 0 < share < 1 and 1 or more"
        )
    low, high = 0.0, math.pi / 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < share else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _inside(angle: float, freedom: int) -> float:
    """Probability of |t| < sqrt(freedom) tan(angle), a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for n in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (n - 1) / n
        total += term
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total
