"""Stochastic gradient descent over levels. Spec: specs/optimizers/sgd.md."""

from torch import Tensor

from hecate_core.optimizers.checks import at_least_zero
from hecate_core.optimizers.leveled import LevelOptimizer
from hecate_core.optimizers.owners import NamedParameters


class SGD(LevelOptimizer):
    """Stochastic gradient descent with optional momentum; `weight_decay` acts on matrices only.

    The arithmetic of torch.optim.SGD, bit for bit with every period 1. `clip` is the global norm after
    reduction, None for none.
    """

    def __init__(
        self,
        named_parameters: NamedParameters,
        *,
        levels: object = None,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None:
        self.momentum = at_least_zero("momentum", momentum)
        self.slots = ("momentum",) if momentum else ()
        super().__init__(named_parameters, levels=levels, lr=lr, weight_decay=weight_decay, clip=clip)

    def move(self, name: str, work: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        """Eq. 1 and 2."""
        if decay:
            grad = grad.add(work, alpha=decay)
        if self.momentum:
            velocity = self.state["momentum"][name]
            grad = velocity.mul_(self.momentum).add_(grad)
        work.add_(grad, alpha=-rate)
