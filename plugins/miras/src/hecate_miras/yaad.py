"""YAAD: errors beyond a threshold, chosen by the token itself, pull with bounded force.

Spec: specs/rules/yaad.md, Eq. 1 to 3. Limit: a threshold above every error is deep Titans without momentum.
"""

from hecate_core.api import MLP, ComposedRule, GradientDescent, ScalarDecay
from hecate_miras.huber import Huber

# Without a norm a step is unbounded in the weights: measured, rates up to 0.05 stay finite (spec, section Stability).
PLAIN = {"high": 0.05, "init": 0.02}

# Behind a layer norm a prediction's root mean square is about 1, whatever its width: 3 lies above the errors to come.
ABOVE = {"high": 4.0, "init": 3.0}

# Where nothing is kept, weights are the last step alone, and behind a norm the next is their inverse (spec, Stability).
KEPT = {"low": 0.5}


def yaad(
    *,
    form: str = "switch",
    depth: int = 2,
    expansion: float = 4.0,
    activation: str = "gelu",
    residual: bool = True,
    norm: bool = True,
) -> ComposedRule:
    """W <- retain W - write grad Huber for every weight. Source: [2504.13173] Eq. 26."""
    narrow = {"write": {"init": 0.1}, "threshold": ABOVE, "retain": KEPT} if norm else {"write": PLAIN}
    return ComposedRule(
        "yaad",
        structure=MLP(depth=depth, expansion=expansion, activation=activation, residual=residual, norm=norm),
        bias=Huber(form=form, unit="rms" if norm and form != "coordinate" else "norm"),
        retention=ScalarDecay(),
        algorithm=GradientDescent(),
        spec="rules/yaad.md",
        narrow=narrow,
    )
