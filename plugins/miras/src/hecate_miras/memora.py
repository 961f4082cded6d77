"""MEMORA: every column of every weight is a distribution, kept close to the last one in the sense of KL.

Spec: specs/rules/memora.md, Eq. 1 to 3. Limit: retain = 1, write = 0 changes nothing; retain = 0, write = 0 is uniform.
"""

from hecate_core.api import L2, MLP, ComposedRule, GradientDescent
from hecate_miras.simplex import Simplex

# Scale of the first logits: equal columns stay equal for ever, and at fan-in 64 this spreads logits by about 1.
NOISE = 8.0


def memora(
    *,
    mass: float = 4.0,
    over: str = "column",
    depth: int = 2,
    expansion: float = 4.0,
    activation: str = "gelu",
    residual: bool = True,
    norm: bool = True,
) -> ComposedRule:
    """L <- retain L - write grad l2; W = mass softmax(L) for every weight. Source: [2504.13173] Eq. 21, 27."""
    return ComposedRule(
        "memora",
        structure=MLP(
            depth=depth, expansion=expansion, activation=activation, residual=residual, norm=norm, start=NOISE
        ),
        bias=L2(),
        retention=Simplex(mass=mass, over=over),
        algorithm=GradientDescent(),
        spec="rules/memora.md",
        narrow={"write": {"init": 0.1}},
    )
