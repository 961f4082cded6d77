"""Delta momentum: before a gradient enters the momentum, what stands there in its direction is erased.

Spec: specs/optimizers/delta-momentum.md, Eq. 1 to 3. Limit: erase = 0 is SGD with momentum.
"""

import torch

from hecate_core.api import InputError, LevelOptimizer, NamedParameters, Tensor, at_least_zero, below_one


class DeltaMomentum(LevelOptimizer):
    """S <- S (momentum I - erase G^T G / |G|^2) + lr G, W <- W - S; a vector is a matrix of one row.

    `erase` in [0, 1]: the direction is taken from the gradient over its Frobenius norm, so no eigenvalue can leave
    [momentum - 1, momentum]. `rate`: "inside" weighs gradients as they enter, as printed; "outside" weighs steps, as
    torch.optim.SGD does, which differs where the rate changes. Source: [2512.24695] Eq. 48-49.
    """

    slots = ("momentum",)

    def __init__(
        self,
        named_parameters: NamedParameters,
        *,
        levels: object = None,
        lr: float = 0.1,
        momentum: float = 0.9,
        erase: float = 1.0,
        rate: str = "inside",
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None:
        self.momentum, self.erase = below_one("momentum", momentum), at_least_zero("erase", erase)
        if self.erase > 1:
            raise InputError(f"optimizer.erase = {erase!r}; expected a number in [0, 1]")
        if rate not in ("inside", "outside"):
            raise InputError(f"optimizer.rate = {rate!r}; expected 'inside' or 'outside'")
        self.rate = rate
        super().__init__(named_parameters, levels=levels, lr=lr, weight_decay=weight_decay, clip=clip)

    def move(self, name: str, work: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        """Eq. 1 to 3."""
        if decay:
            grad = grad.add(work, alpha=decay)
        velocity = self.state["momentum"][name]
        erased = self._seen(velocity, grad) if self.erase else None
        velocity.mul_(self.momentum)
        if erased is not None:
            velocity.sub_(erased, alpha=self.erase)
        if self.rate == "inside":
            work.sub_(velocity.add_(grad, alpha=rate))
        else:
            work.add_(velocity.add_(grad), alpha=-rate)

    def _seen(self, velocity: Tensor, grad: Tensor) -> Tensor:
        """S G^T G / |G|^2: the part of the momentum that lies along the gradient's rows."""
        rows = grad if grad.dim() >= 2 else grad.reshape(1, -1)
        size = torch.linalg.vector_norm(rows, dim=(-2, -1), keepdim=True)
        along = rows / size.clamp_min(torch.finfo(rows.dtype).tiny)
        seen: Tensor = (velocity.view_as(rows) @ along.mT) @ along
        return seen.view_as(grad)
