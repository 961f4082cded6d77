"""DGD: a gradient step that also erases what lies along the present key.

Spec: specs/rules/dgd.md, Eq. 1. Limit: with the dot bias it is the delta rule, error first.
"""

from typing import Any

from hecate_core.api import ComposedRule, DeltaGradientDescent, Matrix, ScalarDecay, registry

# An affine bias has the range that the knobs derive. Others run frozen, where gradients add up.
FROZEN = {"high": 0.1, "init": 0.05}


def dgd(*, bias: Any = "dot", erase: str = "write", learn_start: bool = False) -> ComposedRule:
    """M_t = M_{t-1} (retain I - erase k k^T) - write grad(M_{t-1}); `bias` names the inner loss.

    "dot" recalls values faithfully; "l2" is the paper's and recalls half of them when nothing decays.
    Source: [2512.24695] Eq. 88 (Eq. 92 for dot, with the sign of descent).
    """
    loss = registry().create("bias", bias)
    return ComposedRule(
        "dgd",
        structure=Matrix(learn_start=learn_start),
        bias=loss,
        retention=ScalarDecay(),
        algorithm=DeltaGradientDescent(erase=erase),
        spec="rules/dgd.md",
        narrow=None if loss.affine is not None else {"write": FROZEN, **({"erase": FROZEN} if erase == "gate" else {})},
        span=None if loss.affine is not None else 16,
    )
