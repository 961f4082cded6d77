"""f-divergence retention: weights are shares of a mass, moved by a factor that the divergence prescribes.

Spec: specs/knobs/f-divergence.md, Eq. 1 to 4. Limit: divergence "kl" is KL retention without decay.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from hecate_core.api import CompositionError, Float, NoDecay, Tensor

HALVINGS = 60  # of the bracket around the multiplier: float64 has no more digits


class Divergence(NamedTuple):
    """The inverse of f', its slope, the argument where it is 1, and the (excluded) end of its domain or of float64."""

    factor: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    one: float
    end: float


EXPONENT = 700.0  # exp of it is finite in float64; a share of 0 times infinity would be no number

DIVERGENCES = {
    "kl": Divergence(lambda u: (u - 1.0).exp(), lambda u: (u - 1.0).exp(), 1.0, EXPONENT),
    "chi2": Divergence(
        lambda u: (1.0 + 0.5 * u).clamp(min=0.0),
        lambda u: torch.where(u > -2.0, 0.5, 0.0).to(u.dtype),
        0.0,
        float("inf"),
    ),
    "hellinger": Divergence(lambda u: (1.0 - u).pow(-2.0), lambda u: 2.0 * (1.0 - u).pow(-3.0), 0.0, 1.0),
    "reverse-kl": Divergence(lambda u: -1.0 / u, lambda u: u.pow(-2.0), -1.0, 0.0),
}


class FDivergence(NoDecay):
    """W <- W (f')^-1(-zeta - write g), with zeta per column such that the mass stays what it was.

    `divergence` is "kl" (f = t log t), "chi2" ((t - 1)^2, sets weights to exactly 0, where they stay), "hellinger"
    ((sqrt t - 1)^2) or "reverse-kl" (-log t). The start is logits. The step is a factor, so there is nothing it adds
    to: no momentum, no frozen gradients. Source: [2504.13173] Eq. 18.
    """

    domain = "simplex"
    decays = False

    def __init__(self, *, divergence: str = "hellinger", mass: float = 1.0) -> None:
        if divergence not in DIVERGENCES:
            raise CompositionError(f'f-divergence: divergence = "{divergence}"; expected {", ".join(DIVERGENCES)}')
        if not mass > 0.0:
            raise CompositionError(f"f-divergence: mass = {mass}; expected a number > 0")
        self._of, self._mass = DIVERGENCES[divergence], mass
        self.inverse = self._start

    def advance(self, stored: Float[Tensor, "... V K"], move: Float[Tensor, "... V K"]) -> Float[Tensor, "... V K"]:
        """The weights after a step `move` (= -write g), columns of the same mass.

        In float64 whatever is given: near a pole of the factor zeta has no digits to lose.
        """
        dtype, stored, move = torch.result_type(stored, move), stored.double(), move.double()
        return (stored * self._of.factor(self._argument(move - self._multiplier(stored, move)))).to(dtype)

    def _start(self, logits: Tensor) -> Tensor:
        return self._mass * torch.softmax(logits, -2)

    def _argument(self, u: Tensor) -> Tensor:
        """Kept off the end of the factor's domain, where it is infinite."""
        return u if self._of.end == float("inf") else u.clamp(max=self._of.end - 1e-6)

    def _multiplier(self, stored: Tensor, move: Tensor) -> Float[Tensor, "... 1 K"]:
        """zeta: by halving on values alone, then one Newton step that carries the exact derivative."""
        known, values = stored.detach(), move.detach()
        low, high = values.amin(-2, keepdim=True) - self._of.one, values.amax(-2, keepdim=True) - self._of.one
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            heavy = self._total(known, values, middle) > self._mass
            low, high = torch.where(heavy, middle, low), torch.where(heavy, high, middle)
        zeta = 0.5 * (low + high)
        slope = (stored * self._of.slope(self._argument(move - zeta))).sum(-2, keepdim=True)
        return zeta + (self._total(stored, move, zeta) - self._mass) / slope.clamp(min=1e-12)

    def _total(self, stored: Tensor, move: Tensor, zeta: Tensor) -> Tensor:
        return (stored * self._of.factor(self._argument(move - zeta))).sum(-2, keepdim=True)
