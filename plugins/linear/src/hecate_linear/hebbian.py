"""Hebbian memory: forget a little, then add the new pair.

Spec: specs/rules/hebbian.md, Eq. 1. Limit: retain = 1 is linear attention with a write gate.
"""

from hecate_core.api import ComposedRule, Dot, GradientDescent, Matrix, ScalarDecay


def hebbian(*, learn_start: bool = False) -> ComposedRule:
    """M_t = retain M_{t-1} + write v_t k_t^T. Source: [2504.13173] Eq. 8 (there with write = 1)."""
    return ComposedRule(
        "hebbian",
        structure=Matrix(learn_start=learn_start),
        bias=Dot(),
        retention=ScalarDecay(),
        algorithm=GradientDescent(),
        spec="rules/hebbian.md",
    )
