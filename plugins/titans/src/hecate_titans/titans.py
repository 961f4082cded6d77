"""Titans with a matrix memory: past surprise keeps writing for a while.

Spec: specs/rules/titans.md, Eq. 1 to 3. Limit: momentum = 0 is the delta rule with the error taken first.
"""

from typing import Literal

from hecate_core.api import L2, ComposedRule, CompositionError, Matrix, Momentum, ScalarDecay, steady_write

START = 0.1  # below the end of the momentum, where it starts
GAIN = 2.0  # largest write / (1 - momentum) that left 10,000 random unit keys bounded (spec, section Stability)


def titans(
    *,
    learn_start: bool = False,
    largest_write: float = 0.2,
    largest_momentum: float = 0.6,
    keys: Literal["any", "unordered"] = "any",
) -> ComposedRule:
    """S_t = momentum S - write (M k - v) k^T; M_t = retain M + S_t. Source: [2501.00663] Eq. 13-14, 32-33.

    The gates reach `largest_write` and `largest_momentum`. `keys` says for which keys a memory may not grow that both
    are the gates of: "any" order of them (spec Eq. 5), or "unordered" ones (spec Eq. 4: a longer momentum, which keys
    that turn steadily make diverge). CompositionError beyond that.
    """
    if not (0.0 < largest_momentum <= 0.99 and 0.0 < largest_write <= 1.0):
        raise CompositionError(
            f"titans: largest_write = {largest_write}, largest_momentum = {largest_momentum}; "
            "expected above 0 and at most 1, above 0 and at most 0.99"
        )
    bounds = {"any": steady_write(largest_momentum), "unordered": GAIN * (1.0 - largest_momentum)}
    if keys not in bounds:
        raise CompositionError(f'titans: keys = "{keys}"; expected "any" (in whatever order) or "unordered"')
    if largest_write > bounds[keys] * (1.0 + 1e-9):
        raise CompositionError(
            f"titans: largest_write = {largest_write} with largest_momentum = {largest_momentum} may diverge; "
            f'expected at most {bounds[keys]:.3g} for keys = "{keys}"'
        )
    return ComposedRule(
        "titans",
        structure=Matrix(learn_start=learn_start),
        bias=L2(),
        retention=ScalarDecay(),
        algorithm=Momentum(),
        spec="rules/titans.md",
        narrow={
            "write": {"high": largest_write, "init": largest_write / 2.0},
            "momentum": {"high": largest_momentum, "init": max(largest_momentum - START, largest_momentum / 2.0)},
        },
    )
