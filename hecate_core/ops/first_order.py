"""How the backward of an op runs: once, and in the precision of its forward."""

import functools
from collections.abc import Callable
from typing import Any

import torch


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates the `backward(ctx, *adjoints)` of an `autograd.Function`: double backward is refused, autocast is off.

    PyTorch advises against `loss.backward()` inside an autocast block and does not forbid it; half of an analytical
    backward in bfloat16 would fail on its first sum of two dtypes.
    """

    @functools.wraps(backward)
    def run(ctx: Any, *adjoints: Any) -> Any:
        device = next((one.device.type for one in adjoints if one is not None), "cpu")  # all may be undefined
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return backward(ctx, *adjoints)
        with torch.autocast(device, enabled=False):
            return backward(ctx, *adjoints)

    decorated: Callable[..., Any] = torch.autograd.function.once_differentiable(run)
    return decorated
