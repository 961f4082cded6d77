"""MONETA: an l_p loss decides what counts, an L_q norm of the evidence decides what is kept.

Spec: specs/rules/moneta.md, Eq. 1 to 3. Limit: p = 2 (exact) and q = 2 on one plain layer is the delta
rule (error first) at twice the rate.
"""

from hecate_core.api import MLP, ComposedRule, GradientDescent
from hecate_miras.lp import Lp
from hecate_miras.lq import Lq

# Largest write rate at which 10,000 random tokens stayed finite, by link; without a norm the step is unbounded.
NORMED = {"printed": 0.1, "dual": 0.1, "exact": 0.1}
PLAIN = {"printed": 0.1, "dual": 0.03, "exact": 0.001}


def moneta(
    *,
    p: float = 3.0,
    q: float = 4.0,
    link: str = "printed",
    floor: float = 1e-6,
    smooth: bool = True,
    depth: int = 2,
    expansion: float = 4.0,
    activation: str = "gelu",
    residual: bool = True,
    norm: bool = True,
) -> ComposedRule:
    """A <- retain A - write grad l_p; W = link_q(A) for every weight. Source: [2504.13173] Eq. 24-25.

    `floor` is the smallest norm the link divides by: the printed one would leave float32 where evidence vanishes.
    """
    largest = (NORMED if norm else PLAIN).get(link, 0.1)  # an unknown link is refused by the retention
    narrow = {"write": {"high": largest, "init": largest / 10.0}}
    if link == "printed" and not norm:
        narrow["retain"] = {"low": 0.9}  # its weights grow as 1 / A, and without a norm the next step with them
    elif link != "printed" and norm:
        narrow["retain"] = {"low": 0.9}  # where less is kept, steps behind a norm grow as 1 / weights
    return ComposedRule(
        "moneta",
        structure=MLP(depth=depth, expansion=expansion, activation=activation, residual=residual, norm=norm),
        bias=Lp(p=p, smooth=smooth),
        retention=Lq(q=q, link=link, floor=floor),
        algorithm=GradientDescent(),
        spec="rules/moneta.md",
        narrow=narrow,
    )
