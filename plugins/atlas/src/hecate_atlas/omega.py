"""The Omega rule: at every token a gradient step on the whole window, not on the last token alone.

Spec: specs/rules/omega.md. Limit: window 1 with identity features is the error-first delta rule, with momentum Titans.
"""

from hecate_atlas.rule import WindowRule
from hecate_core.api import MLP, MOMENTUM, RETAIN, WRITE, CompositionError, Gate, Matrix, Structure, steady_write

AT_MOST = MOMENTUM.narrowed(high=0.6, init=0.5)


def gates_of(name: str, window: int, *, write: Gate, momentum: Gate | None) -> dict[str, Gate]:
    """Retain, write, one weight per place of the window, and momentum where there is one."""
    if window < 1:
        raise CompositionError(f"{name}: window = {window}; expected an integer >= 1")
    share = Gate(0.0, 1.0, init=0.5, width="J", domain=WRITE.domain)
    gates = {"retain": RETAIN, "write": write, "window": share}
    return gates if momentum is None else {**gates, "momentum": momentum}


def structure_of(name: str, depth: int, expansion: float, features: str, residual: bool | None) -> Structure:
    """One matrix that starts at zero, or an MLP that starts at learned noise, x + MLP(x) as the paper where it can be.

    CompositionError for a residual around a matrix, or over keys that features make wider than values.
    """
    fits = depth > 1 and features == "identity"
    if residual and not fits:
        raise CompositionError(
            f'{name}: residual = true with depth = {depth} and features = "{features}"; expected an MLP '
            '(depth >= 2) over keys as wide as values (features = "identity")'
        )
    kept = fits if residual is None else residual
    return Matrix() if depth == 1 else MLP(depth=depth, expansion=expansion, residual=kept)


def omega(
    *,
    window: int = 4,
    features: str = "poly2",
    momentum: bool = False,
    depth: int = 1,
    expansion: float = 4.0,
    residual: bool | None = None,
) -> WindowRule:
    """M = retain M - write sum_j window_j (M phi(k_j) - v_j) phi(k_j)^T. Source: [2505.23735] Eq. 8-11.

    The range of `write` is divided by the window, so that all of it together steps no further than 1; an MLP narrows
    both rates as deep Titans does, a momentum as Titans does (spec, section Stability). `residual` None is that of an
    MLP over keys as they are.
    """
    high, most = 1.0, MOMENTUM
    if depth > 1:
        high, most = (0.01, AT_MOST) if momentum else (0.1, MOMENTUM)
    elif momentum:
        high, most = steady_write(AT_MOST.high), AT_MOST  # as for Titans with a matrix
    gates = gates_of(
        "omega",
        window,
        write=WRITE.narrowed(high=high / max(window, 1), init=0.8 * high / max(window, 1)),
        momentum=most if momentum else None,
    )
    structure = structure_of("omega", depth, expansion, features, residual)
    return WindowRule("omega", structure=structure, gates=gates, window=window, features=features)
