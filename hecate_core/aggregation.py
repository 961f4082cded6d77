"""How what several levels answer becomes one answer: their sum, scaled or weighed by learned shares."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from hecate_core.errors import CompositionError
from hecate_core.shapes import Float, Tensor

Aggregate = Literal["sum", "invsqrt", "softmax"]
AGGREGATES = ("sum", "invsqrt", "softmax")


class Aggregation(nn.Module):
    """y = s sum_l y_l over L levels: specs/levels.md, Eq. 5.

    "sum" has s = 1; "invsqrt" 1 / sqrt(L) beyond two levels, which keeps the variance of uncorrelated answers;
    "softmax" weighs them by softmax(shares), a learned logit per level that starts at 0. One level is itself in all.
    """

    def __init__(self, kind: str, levels: int) -> None:
        super().__init__()
        if kind not in AGGREGATES:
            raise CompositionError(f'aggregate = "{kind}"; expected {", ".join(AGGREGATES)}')
        self._scale = levels**-0.5 if kind == "invsqrt" and levels > 2 else 1.0
        self.shares = nn.Parameter(torch.zeros(levels)) if kind == "softmax" and levels > 1 else None

    def forward(self, answers: Sequence[Float[Tensor, "B T D"]]) -> Float[Tensor, "B T D"]:
        """One answer from one per level."""
        if self.shares is not None:
            wide = torch.promote_types(self.shares.dtype, torch.float32)
            weights = torch.softmax(self.shares.to(wide), 0).to(answers[0].dtype)
            answers = [weight * answer for weight, answer in zip(weights.unbind(), answers, strict=True)]
        total = answers[0]
        for answer in answers[1:]:
            total = total + answer
        return total if self._scale == 1.0 else total * self._scale
