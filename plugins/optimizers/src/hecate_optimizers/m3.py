"""M3: Muon on two time scales, over the root of a second moment.

Spec: specs/optimizers/m3.md, Eq. 1 to 7.
"""

from hecate_core.api import InputError, NamedParameters, Tensor, at_least_zero, below_one
from hecate_optimizers.matrices import APART, MatrixOptimizer
from hecate_optimizers.orthogonal import at_least, frobenius, of_unit_size, orthogonal

MODES = ("ema", "literal", "noV")


class M3(MatrixOptimizer):
    """A fast momentum every fire, a slow one every `period` fires; matrices step along both, orthogonalised.

    `mode`: "ema" averages all moments and gives every step the size of the rate; "literal" is Algorithm 1 as printed,
    which adds without decay and depends on the scale of the loss; "noV" has no second moment and keeps the momenta's
    own sizes. `betas` are those of fast momentum, second moment and slow momentum, `slow` the weight of the slow step.
    The period is counted in fires of the parameter's own level. Source: [2512.24695] Alg. 1, Eq. 75.
    """

    def __init__(
        self,
        named_parameters: NamedParameters,
        *,
        levels: object = None,
        lr: float = 4e-4,
        mode: str = "ema",
        betas: tuple[float, float, float] = (0.9, 0.999, 0.95),
        slow: float = 0.5,
        period: int = 8,
        steps: int = 5,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        adamw: tuple[str, ...] = APART,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"optimizer.mode = {mode!r}; expected {', '.join(map(repr, MODES))}")
        self.mode, self.slow_beta, self.slow = mode, below_one("betas[2]", betas[2]), at_least_zero("slow", slow)
        self.period, self.steps = at_least(1, "period", period), at_least(1, "steps", steps)
        self.matrix_slots = ("fast", "slow", "sum", "ahead") + (() if mode == "noV" else ("square",))
        super().__init__(
            named_parameters,
            levels=levels,
            lr=lr,
            betas=betas[:2],
            eps=eps,
            weight_decay=weight_decay,
            clip=clip,
            adamw=adamw,
        )

    def move_matrix(self, name: str, work: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        """Eq. 2 to 7."""
        fired = self.fires[self.level_of[name]]
        if fired > 1 and (fired - 1) % self.period == 0:
            self._end_period(name)
        self.state["sum"][name].add_(grad)
        fast, ahead = self.state["fast"][name], self.state["ahead"][name]
        if self.mode == "literal":
            fast.add_(grad, alpha=self.betas[0])
        else:
            fast.lerp_(grad, 1 - self.betas[0])
        step = orthogonal(fast, self.steps)
        if self.mode == "noV":
            step = frobenius(fast) * step + self.slow * frobenius(self.state["slow"][name]) * ahead
        else:
            step = (step + self.slow * ahead) / (self._spread(name, grad, fired).sqrt() + self.eps)
        if self.mode == "ema":
            step = of_unit_size(step)
        work.mul_(1 - rate * decay)
        work.add_(step, alpha=-rate)

    def _end_period(self, name: str) -> None:
        """The slow momentum takes up the period that is over: Eq. 1, or Eq. 5."""
        slow, total = self.state["slow"][name], self.state["sum"][name]
        if self.mode == "literal":
            slow.add_(total, alpha=self.slow_beta)
        else:
            slow.lerp_(total / self.period, 1 - self.slow_beta)
        self.state["ahead"][name].copy_(orthogonal(slow, self.steps))
        total.zero_()

    def _spread(self, name: str, grad: Tensor, fired: int) -> Tensor:
        """The second moment, corrected for its start where it is an average."""
        square, beta = self.state["square"][name], self.betas[1]
        if self.mode == "literal":
            return square.addcmul_(grad, grad, value=beta)
        square.mul_(beta).addcmul_(grad, grad, value=1 - beta)
        return square / (1 - beta**fired)
