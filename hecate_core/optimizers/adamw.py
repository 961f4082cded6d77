"""AdamW over levels. Spec: specs/optimizers/adamw.md."""

from torch import Tensor

from hecate_core.optimizers.checks import at_least_zero, below_one
from hecate_core.optimizers.leveled import LevelOptimizer
from hecate_core.optimizers.owners import NamedParameters


class AdamW(LevelOptimizer):
    """AdamW whose moments, step counter and decay stand still while their level rests.

    The arithmetic of torch.optim.AdamW, bit for bit with every period 1; `weight_decay` is decoupled and acts on
    matrices only (two or more axes). `clip` is the global norm after reduction, None for none.
    """

    slots = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        named_parameters: NamedParameters,
        *,
        levels: object = None,
        lr: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        clip: float | None = 1.0,
    ) -> None:
        first, second = betas
        self.betas = (below_one("betas[0]", first), below_one("betas[1]", second))
        self.eps = at_least_zero("eps", eps)
        super().__init__(named_parameters, levels=levels, lr=lr, weight_decay=weight_decay, clip=clip)

    def move(self, name: str, work: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        """Eq. 1 to 3."""
        fired = self.fires[self.level_of[name]]
        first, second = self.betas
        mean, square = self.state["exp_avg"][name], self.state["exp_avg_sq"][name]
        if decay:
            work.mul_(1 - rate * decay)
        mean.lerp_(grad, 1 - first)
        square.mul_(second).addcmul_(grad, grad, value=1 - second)
        scale = float(1 - second**fired) ** 0.5
        denominator = (square.sqrt() / scale).add_(self.eps)
        work.addcdiv_(mean, denominator, value=-rate / (1 - first**fired))
