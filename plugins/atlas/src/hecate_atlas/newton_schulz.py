"""Newton-Schulz steps towards the nearest semi-orthogonal matrix, and gradient descent that takes them.

Spec: specs/knobs/newton-schulz.md, Eq. 1 to 3; the backward is Eq. 4 to 6.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch

from hecate_core.api import (
    MOMENTUM,
    WRITE,
    CompositionError,
    Float,
    Gate,
    Rates,
    Tensor,
    Tokens,
    first_order,
    nearest,
    settled,
)

COEFFICIENTS = {"muon": (3.4445, -4.7750, 2.0315), "polar": (1.5, -0.5, 0.0)}
FLOOR = 1e-7  # added to the norm: zero stays zero


class NewtonSchulzPair(Protocol):
    """One implementation of the op `newton_schulz`, on matrices `[G, V, K]` with V <= K: no side but V is squared."""

    op: str
    backend: str

    def forward(self, matrix: Tensor, steps: int, coefficients: str) -> Tensor:
        """The matrix after the steps."""
        ...

    def backward(self, matrix: Tensor, steps: int, coefficients: str, d_out: Tensor) -> Tensor:
        """The gradient by the matrix."""
        ...


class Reference:
    """The op in plain torch, on any device. Recomputes the iterates backward: five of them per token are too many."""

    op = "newton_schulz"
    backend = "reference"

    def forward(self, matrix: Tensor, steps: int, coefficients: str) -> Tensor:
        """See `NewtonSchulzPair`."""
        return _iterates(matrix, steps, COEFFICIENTS[coefficients])[-1]

    def backward(self, matrix: Tensor, steps: int, coefficients: str, d_out: Tensor) -> Tensor:
        """See `NewtonSchulzPair`; specs/knobs/newton-schulz.md, Eq. 4 to 6."""
        a, b, c = COEFFICIENTS[coefficients]
        d = d_out
        for x in reversed(_iterates(matrix, steps, COEFFICIENTS[coefficients])[:-1]):
            square = x @ x.mT
            turned, answer = square @ d, d @ x.mT
            by_square = b * answer + c * (answer @ square + square @ answer)
            d = a * d + b * turned + c * (square @ turned) + (by_square + by_square.mT) @ x
        norm = matrix.norm(dim=(-2, -1), keepdim=True)
        along = (matrix * d).sum((-2, -1), keepdim=True) / (norm.clamp_min(1e-30) * (norm + FLOOR))
        d_matrix: Tensor = (d - matrix * along) / (norm + FLOOR)
        return d_matrix


REFERENCE = Reference()


def newton_schulz(
    matrix: Float[Tensor, "... V K"],
    steps: int = 5,
    coefficients: str = "muon",
    pair: NewtonSchulzPair = REFERENCE,
) -> Float[Tensor, "... V K"]:
    """X = S / |S|, then `steps` times X <- a X + b (X X^T) X + c (X X^T)^2 X.

    Scale-free and odd. "muon" brings well-conditioned singular values to about [0.7, 1.2], "polar" converges to the
    polar factor. Saves nothing but the matrix for the backward, once differentiable. Source: [2505.23735] Eq. 32.
    """
    if matrix.shape[-2] > matrix.shape[-1]:  # the small side is squared
        return newton_schulz(matrix.mT, steps, coefficients, pair).mT
    flat = matrix.flatten(0, -3) if matrix.dim() > 2 else matrix[None]
    pair, given = settled(pair, flat, lambda one: (flat, steps, coefficients))
    made: Tensor = _NewtonSchulz.apply(*given, pair)
    return made.view(matrix.shape)


class _NewtonSchulz(torch.autograd.Function):
    """Joins a pair's forward and backward."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, steps: int, coefficients: str, pair: NewtonSchulzPair) -> Tensor:
        ctx.save_for_backward(matrix)
        ctx.given = pair, steps, coefficients
        return pair.forward(matrix, steps, coefficients)

    @staticmethod
    @first_order
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None, None]:
        pair, steps, coefficients = ctx.given
        return pair.backward(ctx.saved_tensors[0], steps, coefficients, d), None, None, None


def _iterates(matrix: Tensor, steps: int, coefficients: tuple[float, float, float]) -> list[Tensor]:
    a, b, c = coefficients
    found = [matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + FLOOR)]
    for _ in range(steps):
        x = found[-1]
        square = x @ x.mT
        found.append(a * x + (b * square + c * (square @ square)) @ x)
    return found


@dataclass(frozen=True)
class NewtonSchulzStep:
    """The step map of `NewtonSchulzMomentum`; `on(pair)` is the same map by another implementation of its op."""

    steps: int
    coefficients: str
    pair: NewtonSchulzPair = REFERENCE
    op: ClassVar[str] = "newton_schulz"

    def __call__(self, momentum: Float[Tensor, "... V K"]) -> Float[Tensor, "... V K"]:
        """NS(momentum)."""
        return newton_schulz(momentum, self.steps, self.coefficients, self.pair)

    def on(self, pair: NewtonSchulzPair) -> "NewtonSchulzStep":
        """The map as a strategy with a pair for `op` takes it."""
        return replace(self, pair=pair)


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
        self.step_map: Callable[[Tensor], Tensor] | None = NewtonSchulzStep(steps, coefficients)

    def rates(self, tokens: Tokens) -> Rates:
        """Outside: full gradients, the step is `write`. Inside: weighted gradients, the step has size 1."""
        write: Tensor = tokens.write
        if self.rate == "inside":
            return Rates(write, momentum=tokens.momentum)
        return Rates(torch.ones_like(write), momentum=tokens.momentum, inject=write)
