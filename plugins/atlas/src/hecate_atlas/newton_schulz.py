"""Newton-Schulz steps towards the nearest semi-orthogonal matrix, and gradient descent that takes them.

Spec: specs/knobs/newton-schulz.md, Eq. 1 to 3; the backward is Eq. 4 to 6.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from hecate_core.api import MOMENTUM, WRITE, CompositionError, Float, Gate, Rates, Tensor, Tokens, nearest

COEFFICIENTS = {"muon": (3.4445, -4.7750, 2.0315), "polar": (1.5, -0.5, 0.0)}
FLOOR = 1e-7  # added to the norm: zero stays zero


def newton_schulz(
    matrix: Float[Tensor, "... V K"], steps: int = 5, coefficients: str = "muon"
) -> Float[Tensor, "... V K"]:
    """X = S / |S|, then `steps` times X <- a X + b (X X^T) X + c (X X^T)^2 X.

    Scale-free and odd. "muon" brings well-conditioned singular values to about [0.7, 1.2], "polar" converges to the
    polar factor. Saves nothing but the matrix for the backward, once differentiable. Source: [2505.23735] Eq. 32.
    """
    if matrix.shape[-2] > matrix.shape[-1]:  # the small side is squared
        return newton_schulz(matrix.mT, steps, coefficients).mT
    made: Tensor = _NewtonSchulz.apply(matrix, steps, COEFFICIENTS[coefficients])
    return made


class _NewtonSchulz(torch.autograd.Function):
    """Recomputes the iterates backward: five of them per token's momentum would not fit beside it."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, steps: int, coefficients: tuple[float, float, float]) -> Tensor:
        ctx.save_for_backward(matrix)
        ctx.steps, ctx.coefficients = steps, coefficients
        return _iterates(matrix, steps, coefficients)[-1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None]:
        (matrix,) = ctx.saved_tensors
        a, b, c = ctx.coefficients
        for x in reversed(_iterates(matrix, ctx.steps, ctx.coefficients)[:-1]):
            square = x @ x.mT
            turned, answer = square @ d, d @ x.mT
            by_square = b * answer + c * (answer @ square + square @ answer)
            d = a * d + b * turned + c * (square @ turned) + (by_square + by_square.mT) @ x
        norm = matrix.norm(dim=(-2, -1), keepdim=True)
        along = (matrix * d).sum((-2, -1), keepdim=True) / (norm.clamp_min(1e-30) * (norm + FLOOR))
        return (d - matrix * along) / (norm + FLOOR), None, None


def _iterates(matrix: Tensor, steps: int, coefficients: tuple[float, float, float]) -> list[Tensor]:
    a, b, c = coefficients
    found = [matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + FLOOR)]
    for _ in range(steps):
        x = found[-1]
        square = x @ x.mT
        found.append(a * x + (b * square + c * (square @ square)) @ x)
    return found


class NewtonSchulzMomentum:
    """S = momentum S - g, M = retain M + write NS(S): the inner step of Atlas, the Muon optimizer of the inner loop.

    `rate="inside"` weighs gradients instead, S = momentum S - write g and M = retain M + NS(S). `steps` and
    `coefficients` ("muon", "polar") as in `newton_schulz`. Source: [2505.23735] Eq. 32-33; "inside": Eq. 57-58.
    """

    at = "raw"
    has_momentum = True
    erases = False
    gates: Mapping[str, Gate] = {"write": WRITE.narrowed(init=0.1), "momentum": MOMENTUM}

    def __init__(self, *, steps: int = 5, coefficients: str = "muon", rate: str = "outside") -> None:
        if steps < 1:
            raise CompositionError(f"newton-schulz: steps = {steps}; expected an integer >= 1")
        if coefficients not in COEFFICIENTS:
            raise CompositionError(
                f'newton-schulz: coefficients = "{coefficients}"{nearest(coefficients, COEFFICIENTS)}'
            )
        if rate not in ("outside", "inside"):
            raise CompositionError(f'newton-schulz: rate = "{rate}"; expected "outside" (of NS) or "inside"')
        self.steps, self.coefficients, self.rate = steps, coefficients, rate
        self.step_map: Callable[[Tensor], Tensor] | None = self._orthogonal

    def rates(self, tokens: Tokens) -> Rates:
        """Outside: full gradients, the step is `write`. Inside: weighted gradients, the step has size 1."""
        write: Tensor = tokens.write
        if self.rate == "inside":
            return Rates(write, momentum=tokens.momentum)
        return Rates(torch.ones_like(write), momentum=tokens.momentum, inject=write)

    def _orthogonal(self, momentum: Tensor) -> Tensor:
        return newton_schulz(momentum, self.steps, self.coefficients)
