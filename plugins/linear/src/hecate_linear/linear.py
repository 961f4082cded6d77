"""Linear attention: add every pair, forget nothing.

Spec: specs/rules/linear.md, Eq. 1. Limit: M_T is the plain sum of v k^T.
"""

from hecate_core.api import ComposedRule, Dot, GradientDescent, Matrix, NoDecay


def linear(*, learn_start: bool = False) -> ComposedRule:
    """M_t = M_{t-1} + v_t k_t^T; no gates. Source: [2501.00663] Eq. 4-5; [2512.24695] Eq. 13."""
    return ComposedRule(
        "linear",
        structure=Matrix(learn_start=learn_start),
        bias=Dot(),
        retention=NoDecay(),
        algorithm=GradientDescent(rate=1.0),
        spec="rules/linear.md",
    )
