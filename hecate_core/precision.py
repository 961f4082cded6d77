"""Where the digits of a memory are kept: float32 or wider, whatever the model around it computes in."""

from contextlib import AbstractContextManager, nullcontext

import torch

from hecate_core.shapes import Tensor


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider: a decay of 0.98 has no digits to lose."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A block in which autocast is off; on devices that know no autocast, an empty one."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # hecate: allow FL-03 -- nothing to switch off is no downshift
