"""Titans with a matrix memory: past surprise keeps writing for a while.

Spec: specs/rules/titans.md, Eq. 1 to 3. Limit: momentum = 0 is the delta rule with the error taken first.
"""

from hecate_core.api import L2, ComposedRule, CompositionError, Matrix, Momentum, ScalarDecay, steady_write


def titans(*, learn_start: bool = False, largest_write: float = 0.2, largest_momentum: float = 0.6) -> ComposedRule:
    """S_t = momentum S - write (M k - v) k^T; M_t = retain M + S_t. Source: [2501.00663] Eq. 13-14, 32-33.

    The gates reach `largest_write` and `largest_momentum`; CompositionError where some order of keys makes a memory
    grow that both are the gates of (spec Eq. 5).
    """
    if not (0.0 < largest_momentum <= 0.99 and 0.0 < largest_write <= 1.0):
        raise CompositionError(
            f"titans: largest_write = {largest_write}, largest_momentum = {largest_momentum}; "
            "expected above 0 and at most 1, above 0 and at most 0.99"
        )
    most = steady_write(largest_momentum)
    if largest_write > most * (1.0 + 1e-9):
        raise CompositionError(
            f"titans: largest_write = {largest_write} with largest_momentum = {largest_momentum} may diverge; "
            f"expected at most {most:.3g}"
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
            "momentum": {"high": largest_momentum, "init": largest_momentum * 5.0 / 6.0},
        },
    )
