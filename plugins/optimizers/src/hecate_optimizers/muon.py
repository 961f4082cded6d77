"""Muon: the momentum of every matrix, its singular values brought to about 1.

Spec: specs/optimizers/muon.md, Eq. 1 to 5. A single matrix is moved by torch.optim.Muon itself.
"""

import torch

from hecate_core.api import InputError, NamedParameters, Tensor, at_least_zero, below_one
from hecate_optimizers.matrices import APART, MatrixOptimizer
from hecate_optimizers.orthogonal import at_least, orthogonal

ADJUST = ("match_rms_adamw", "original")


class Muon(MatrixOptimizer):
    """torch.optim.Muon over levels, AdamW for what `adamw` names and for vectors; one rate serves both.

    With every period 1 bit-identical to torch.optim.Muon on single matrices. Stacks of matrices, which it does not
    take, move by the same equations with Newton-Schulz in float32. Source: [2512.24695] Eq. 52.
    """

    matrix_slots = ("momentum",)

    def __init__(
        self,
        named_parameters: NamedParameters,
        *,
        levels: object = None,
        lr: float = 4e-4,
        momentum: float = 0.95,
        nesterov: bool = True,
        steps: int = 5,
        adjust: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        clip: float | None = 1.0,
        adamw: tuple[str, ...] = APART,
    ) -> None:
        if adjust not in ADJUST:
            raise InputError(f"optimizer.adjust = {adjust!r}; expected {' or '.join(map(repr, ADJUST))}")
        self.momentum, self.nesterov, self.adjust = below_one("momentum", momentum), nesterov, adjust
        self.steps = at_least(1, "steps", steps)
        self._torch = torch.optim.Muon(
            [torch.zeros(1, 1)],  # `move_matrix` puts the parameter of the moment here
            lr=at_least_zero("lr", lr),
            momentum=self.momentum,
            nesterov=nesterov,
            ns_steps=self.steps,
            adjust_lr_fn=adjust,
        )
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
        velocity = self.state["momentum"][name]
        if work.dim() == 2:
            self._by_torch(velocity, work, grad, rate, decay)
            return
        velocity.lerp_(grad, 1 - self.momentum)
        ahead = grad.lerp(velocity, self.momentum) if self.nesterov else velocity
        work.mul_(1 - rate * decay)
        rows, columns = work.shape[-2:]
        size = 0.2 * max(rows, columns) ** 0.5 if self.adjust == "match_rms_adamw" else max(1.0, rows / columns) ** 0.5
        work.add_(orthogonal(ahead, self.steps), alpha=-rate * size)

    def _by_torch(self, velocity: Tensor, work: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        """torch's arithmetic on our state, which is where levels and checkpoints are."""
        group = self._torch.param_groups[0]
        group.update(params=[work], lr=rate, weight_decay=decay)
        work.grad = grad
        self._torch.state[work] = {"momentum_buffer": velocity}
        self._torch.step()
        self._torch.state.clear()
        work.grad = None
