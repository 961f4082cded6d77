"""Atlas: the Omega rule whose step is orthogonalised, as the Muon optimizer does it.

Spec: specs/rules/atlas.md. Limit: without Newton-Schulz it is the Omega rule with momentum.
"""

from hecate_atlas.newton_schulz import NewtonSchulzMomentum
from hecate_atlas.omega import gates_of, structure_of
from hecate_atlas.rule import WindowRule
from hecate_core.api import MOMENTUM, WRITE


def atlas(
    *,
    window: int = 4,
    features: str = "poly2",
    steps: int = 5,
    coefficients: str = "muon",
    rate: str = "outside",
    depth: int = 1,
    expansion: float = 4.0,
    residual: bool | None = None,
) -> WindowRule:
    """S = momentum S - sum_j window_j grad_j, M = retain M + write NS(S). Source: [2505.23735] Eq. 32-33; App. E."""
    return WindowRule(
        "atlas",
        structure=structure_of("atlas", depth, expansion, features, residual),
        gates=gates_of("atlas", window, write=WRITE.narrowed(init=0.1), momentum=MOMENTUM),
        window=window,
        features=features,
        orthogonal=NewtonSchulzMomentum(steps=steps, coefficients=coefficients, rate=rate),
    )
