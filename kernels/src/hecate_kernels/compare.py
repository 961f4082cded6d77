"""How far a pair's results are from the float64 truth, and how far they may be."""

from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import Tensor

from hecate_kernels.pair import Launcher, Tolerance, Trial

TIMES_OF_REFERENCE = 3.0  # allowed where the float32 reference itself is further away than the tolerance
TINY = 1e-30


@attrs.frozen
class Difference:
    """One result of one trial: relative error by norm, and what was allowed."""

    trial: str
    name: str
    error: float
    allowed: float

    @property
    def is_gradient(self) -> bool:
        """Whether the backward made it."""
        return self.name.startswith("d_")

    @property
    def good(self) -> bool:
        """NaN is never good."""
        return self.error <= self.allowed

    def line(self) -> str:
        """The difference in words."""
        return f"{self.name} is off by {self.error:.1e} (allowed {self.allowed:.0e}) at {self.trial}"


def differences(trial: Trial, tolerance: Tolerance, where: Launcher) -> Iterator[Difference]:
    """Runs a trial and measures every result against float64."""
    found, truth = trial.run(where), trial.truth()
    single: Mapping[str, Tensor] = trial.single() if trial.single is not None else {}
    for name, wanted in truth.items():
        allowed = tolerance.backward if name.startswith("d_") else tolerance.forward
        if name in single:
            allowed = max(allowed, TIMES_OF_REFERENCE * relative_error(single[name], wanted))
        if name not in found:
            yield Difference(trial.name, name, float("nan"), allowed)
            continue
        yield Difference(trial.name, name, relative_error(found[name], wanted), allowed)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over norm of the wanted; NaN for another shape or a non-finite result."""
    if found.shape != wanted.shape:
        return float("nan")
    if found.numel() == 0:
        return 0.0
    difference = torch.linalg.vector_norm(found.double() - wanted.double())
    return float(difference / torch.linalg.vector_norm(wanted.double()).clamp(min=TINY))
