"""Delta rule: write only what the decayed memory does not already predict.

Spec: specs/rules/delta.md, Eq. 1. Limit: retain = 1 and write = 1 on a unit key stores the pair exactly.
"""

from hecate_core.api import L2, ComposedRule, GradientDescent, Matrix, ScalarDecay


def delta(*, at: str = "kept", reach: float = 1.0, learn_start: bool = False) -> ComposedRule:
    """M_t = retain M + write (v - retain M k) k^T; `at="raw"` measures the error before the decay instead.

    `reach` is where the write gate ends; 2 lets a write turn the sign of what stands along its key.

    Source: [2412.06464] Eq. 10 (decay first, the form of public kernels); [2501.00663] Eq. 13 with no momentum for
    `at="raw"`.
    """
    return ComposedRule(
        "delta",
        structure=Matrix(learn_start=learn_start),
        bias=L2(),
        retention=ScalarDecay(),
        algorithm=GradientDescent(at=at, reach=reach),
        spec="rules/delta.md",
    )
