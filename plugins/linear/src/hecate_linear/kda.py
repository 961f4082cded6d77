"""KDA: the delta rule with a decay of its own for every key channel.

Spec: specs/rules/kda.md, Eq. 1. Limit: equal channels are the delta rule, decay first.
"""

from hecate_core.api import L2, ColumnDecay, ComposedRule, GradientDescent, Matrix


def kda(*, learn_start: bool = False) -> ComposedRule:
    """M_t = M~ + write (v - M~ k) k^T with M~ = M_{t-1} diag(retain). Source: [2510.26692] Sec. 3."""
    return ComposedRule(
        "kda",
        structure=Matrix(learn_start=learn_start),
        bias=L2(),
        retention=ColumnDecay(),
        algorithm=GradientDescent(at="kept"),
        spec="rules/kda.md",
    )
