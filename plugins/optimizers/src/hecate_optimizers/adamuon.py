"""AdaMuon: Adam whose first moment is orthogonalised before it is divided by the second.

Spec: specs/optimizers/adamuon.md, Eq. 1 to 5. Limit: no Newton-Schulz steps is AdamW bit for bit.
"""

from hecate_core.api import AdamW, InputError, NamedParameters, Tensor
from hecate_optimizers.matrices import APART, MatrixOptimizer
from hecate_optimizers.orthogonal import at_least, of_unit_size, orthogonal


class AdaMuon(MatrixOptimizer):
    """Newton-Schulz of the averaged gradient, over the root of the averaged square.

    `square` says of what: "gradient", or "update", the orthogonalised one. `size` is that of a step: "rms" the
    rate itself, "printed" what the division gives, which depends on the scale of the loss. `steps` 0 is AdamW.
    """

    matrix_slots = AdamW.slots

    def __init__(
        self,
        named_parameters: NamedParameters,
        *,
        levels: object = None,
        lr: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        steps: int = 5,
        square: str = "gradient",
        size: str = "rms",
        weight_decay: float = 0.1,
        clip: float | None = 1.0,
        adamw: tuple[str, ...] = APART,
    ) -> None:
        if square not in ("gradient", "update"):
            raise InputError(f"optimizer.square = {square!r}; expected 'gradient' or 'update'")
        if size not in ("rms", "printed"):
            raise InputError(f"optimizer.size = {size!r}; expected 'rms' or 'printed'")
        self.square, self.size, self.steps = square, size, at_least(0, "steps", steps)
        super().__init__(
            named_parameters,
            levels=levels,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            clip=clip,
            adamw=adamw,
        )

    def move_matrix(self, name: str, work: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        """Eq. 1 to 5."""
        if self.steps == 0:
            AdamW.move(self, name, work, grad, rate, decay)
            return
        fired, (first, second) = self.fires[self.level_of[name]], self.betas
        mean, spread = self.state["exp_avg"][name], self.state["exp_avg_sq"][name]
        mean.lerp_(grad, 1 - first)
        step = orthogonal(mean, self.steps)
        seen = grad if self.square == "gradient" else step
        spread.mul_(second).addcmul_(seen, seen, value=1 - second)
        step = step / ((spread / (1 - second**fired)).sqrt() + self.eps)
        work.mul_(1 - rate * decay)
        work.add_(of_unit_size(step) if self.size == "rms" else step, alpha=-rate)
