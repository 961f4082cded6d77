"""Titans with a matrix memory: past surprise keeps writing for a while.

Spec: specs/rules/titans.md, Eq. 1 to 3. Limit: momentum = 0 is the delta rule with the error taken first.
"""

from hecate_core.api import L2, ComposedRule, Matrix, Momentum, ScalarDecay


def titans(*, learn_start: bool = False) -> ComposedRule:
    """S_t = momentum S - write (M k - v) k^T; M_t = retain M + S_t. Source: [2501.00663] Eq. 13-14, 32-33."""
    return ComposedRule(
        "titans",
        structure=Matrix(learn_start=learn_start),
        bias=L2(),
        retention=ScalarDecay(),
        algorithm=Momentum(),
        spec="rules/titans.md",
    )
