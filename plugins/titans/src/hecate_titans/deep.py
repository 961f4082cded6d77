"""Titans with an MLP memory: surprise is the gradient of a small network's recall error.

Spec: specs/rules/titans-deep.md, Eq. 1 to 3. Limit: depth 1 is Titans with a matrix memory.
"""

from hecate_core.api import L2, MLP, ComposedRule, Momentum, ScalarDecay

# Without a norm the step is unbounded: measured, write / (1 - momentum) <= 0.1 stays finite (spec, section Stability).
PLAIN = {"write": {"high": 0.01, "init": 0.005}, "momentum": {"high": 0.9, "init": 0.8}}
ADDED = {
    **PLAIN,
    "write": {"high": 0.005, "init": 0.0025},
}  # beside a residual, which answers before anything is written
SPAN = 8  # tokens whose errors may be taken at one memory while that holds

# One layer is a matrix, and has the ranges of Titans.
MATRIX = {"write": {"high": 0.2, "init": 0.1}, "momentum": {"high": 0.6, "init": 0.5}}


def titans_deep(
    *, depth: int = 2, expansion: float = 4.0, activation: str = "gelu", residual: bool = False, norm: bool = False
) -> ComposedRule:
    """S_t = momentum S - write grad; W_t = retain W + S_t for every weight. Source: [2501.00663] Eq. 13-14.

    Without `norm` the ranges of write and momentum are narrower, so that every value in them is stable.
    """
    return ComposedRule(
        "titans-deep",
        structure=MLP(depth=depth, expansion=expansion, activation=activation, residual=residual, norm=norm),
        bias=L2(),
        retention=ScalarDecay(),
        algorithm=Momentum(),
        spec="rules/titans-deep.md",
        narrow=None if norm else MATRIX if depth == 1 else ADDED if residual else PLAIN,
        span=None if norm or depth == 1 else SPAN,
    )
