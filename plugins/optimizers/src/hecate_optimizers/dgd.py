"""Delta gradient descent on the outer loop: a step that first erases what a layer answers to its inputs.

Spec: specs/optimizers/dgd.md, Eq. 1 to 4. Limit: erase = 0 is plain descent.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hecate_core.api import InputError, LevelOptimizer, NamedParameters, Tensor, at_least_zero


class DGD(LevelOptimizer):
    """W <- W (I - eta erase C) - eta G for the weight of every linear layer, C the mean of x x^T over its inputs.

    eta = lr / (1 + lr erase tr C), at most 1. What enters a layer is watched while gradients are recorded, from one
    update of its level to the next; every other parameter descends plainly. A layer whose weight is applied by hand
    is not seen. Needs the model itself: InputError for pairs of name and parameter. Source: [2512.24695] Eq. 54-57.
    """

    def __init__(
        self,
        named_parameters: NamedParameters,
        *,
        levels: object = None,
        lr: float = 0.1,
        erase: float = 1.0,
        clip: float | None = None,
    ) -> None:
        if not isinstance(named_parameters, nn.Module):
            raise InputError("dgd: given pairs of name and parameter; expected the model, whose layers it watches")
        self.erase = at_least_zero("erase", erase)
        if self.erase > 1:
            raise InputError(f"optimizer.erase = {erase!r}; expected a number in [0, 1]")
        self._watched = _linear_layers(named_parameters) if self.erase else {}
        super().__init__(named_parameters, levels=levels, lr=lr, weight_decay=0.0, clip=clip)
        for name, layers in self._watched.items():
            for layer in layers:
                handle = layer.register_forward_pre_hook(_watcher(weakref.ref(self), name))
                weakref.finalize(self, handle.remove)

    def slots_of(self, name: str) -> tuple[str, ...]:
        """Where inputs are seen: the sum of x x^T and the number of rows in it."""
        return ("inputs", "count") if name in self._watched else ()

    def first(self, slot: str, name: str) -> Tensor:
        """Nothing seen yet."""
        weight = self.parameters[name]
        kind, width = torch.promote_types(weight.dtype, torch.float32), weight.shape[1]
        return torch.zeros((width, width) if slot == "inputs" else (), dtype=kind, device=weight.device)

    def see(self, name: str, x: Tensor) -> None:
        """Add what enters the layer to what has been seen since its last update."""
        inputs, count = self.state["inputs"][name], self.state["count"][name]
        with torch.autocast(x.device.type, enabled=False):
            rows = x.detach().flatten(0, -2).to(inputs.dtype)
            inputs.add_(rows.mT @ rows)
        count.add_(rows.shape[0])

    def move(self, name: str, work: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        """Eq. 1 to 4."""
        if name not in self._watched:
            work.add_(grad, alpha=-rate)
            return
        inputs, count = self.state["inputs"][name], self.state["count"][name]
        mean = inputs / count.clamp_min(1)
        bounded = (rate / (1 + rate * self.erase * mean.diagonal().sum())).clamp_max(1)
        work.sub_(bounded * (self.erase * (work @ mean) + grad))
        inputs.zero_()
        count.zero_()


def _linear_layers(model: nn.Module) -> dict[str, list[nn.Linear]]:
    """The linear layers behind each weight that learns, by parameter name; tied ones share one."""
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found: dict[str, list[nn.Linear]] = {}
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and id(layer.weight) in names:
            found.setdefault(names[id(layer.weight)], []).append(layer)
    return found


def _watcher(optimizer: "weakref.ref[DGD]", name: str) -> Callable[[nn.Module, Any], None]:
    """A hook that holds no optimizer alive; evaluation, which records nothing, is not seen."""

    def watch(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        mine = optimizer()
        if mine is not None and torch.is_grad_enabled():
            mine.see(name, given[0])

    return watch
