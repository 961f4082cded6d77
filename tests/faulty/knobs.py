"""Structures, biases, retentions and algorithms with a fault."""

from typing import Any, cast

import torch

from hecate_core.api import L2, MLP, Dot, Momentum, ScalarDecay, Tensor, Tokens
from hecate_core.testing import check_algorithm, check_bias, check_retention, check_structure

from .planting import planted


@planted("pullback-equals-autograd", check_structure)
class NormWithoutItsMean(MLP):
    def __init__(self) -> None:
        super().__init__(norm=True, depth=1)

    def pullback(self, params: Any, weights: Any, trace: Any, d: Tensor) -> Any:
        return {"w1": d * params.norm_scale.unsqueeze(-2)}


@planted("affine-claim-reproduces-the-cotangent", check_bias)
class DotThatClaimsToBeL2(Dot):
    affine = (1.0, 1.0)


@planted("cotangent-is-a-gradient", check_bias)
class CotangentOfNoLoss(L2):
    affine = None

    def cotangent(self, prediction: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
        return prediction.roll(1, -1) - v


@planted("more-retain-keeps-more", check_retention)
class ForgetGateCalledRetain(ScalarDecay):
    def keep(self, tokens: Tokens) -> Tensor:
        return 1.0 - cast(Tensor, tokens.retain)


@planted("inverse-undoes-the-link", check_retention)
class InverseOfSomethingElse(ScalarDecay):
    link = staticmethod(torch.tanh)
    inverse = staticmethod(torch.sinh)


@planted("rates-are-what-was-declared", check_algorithm)
class MomentumThatIsNotDeclared(Momentum):
    has_momentum = False


@planted("maps-keep-shapes-and-have-right-gradients", check_algorithm)
class StepMapOverTheBatch(Momentum):
    step_map = staticmethod(lambda step: step / step.norm())
