"""Algorithms of core: gradient descent on the inner loss, with and without momentum."""

from collections.abc import Callable, Mapping

import attrs
import torch

from hecate_core.errors import CompositionError
from hecate_core.gates import MOMENTUM, WRITE, Gate
from hecate_core.protocols import Rates
from hecate_core.records import Tokens
from hecate_core.shapes import Tensor


class GradientDescent:
    """One step of size `write` against the inner gradient.

    `at="raw"` takes the error of the old memory (Titans), `at="kept"` that of the decayed one (gated delta
    rule). `rate` fixes the step size instead of a gate. `reach` is where the write gate ends: up to 2 with
    `at="kept"`, where a unit key's error may change its sign. Source: [2501.00663] Eq. 13; [2412.06464] Eq. 10;
    [2411.12537] Sec. 3 (steps beyond 1).
    """

    has_momentum = False
    erases = False
    step_map: Callable[[Tensor], Tensor] | None = None

    def __init__(self, *, at: str = "raw", rate: float | None = None, reach: float = 1.0) -> None:
        if at not in ("raw", "kept"):
            raise CompositionError(f'gd: at = "{at}"; expected "raw" (old memory) or "kept" (decayed memory)')
        limit = 2.0 if at == "kept" else 1.0
        if not 0.0 < reach <= limit:
            raise CompositionError(f'gd: reach = {reach} at "{at}"; expected above 0 and at most {limit}')
        self.at = at
        self.rate = rate
        gate = attrs.evolve(WRITE, high=reach, init=reach / 2)
        self.gates: Mapping[str, Gate] = {} if rate is not None else {"write": gate}

    def rates(self, tokens: Tokens) -> Rates:
        """The write gate, or the fixed rate for every token."""
        if self.rate is None:
            return Rates(tokens.write)
        first = next(iter(tokens.values()))[..., 0]
        return Rates(torch.full_like(first, self.rate, dtype=torch.promote_types(first.dtype, torch.float32)))


class Momentum:
    """Gradient descent with a decaying sum of past steps: S = momentum S - write g, M = keep M + S.

    The sum enters the memory undecayed and is measured at the old memory. Source: [2501.00663] Eq. 13-14.
    """

    at = "raw"
    has_momentum = True
    erases = False
    step_map: Callable[[Tensor], Tensor] | None = None
    gates: Mapping[str, Gate] = {"write": WRITE.narrowed(init=0.1), "momentum": MOMENTUM}

    def rates(self, tokens: Tokens) -> Rates:
        """Write and momentum gates."""
        return Rates(tokens.write, momentum=tokens.momentum)
