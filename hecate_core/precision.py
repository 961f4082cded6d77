"""Where the digits of a memory are kept: float32 or wider, whatever the model around it computes in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from hecate_core.records import Tokens
from hecate_core.shapes import Tensor


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider: a decay of 0.98 has no digits to lose."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def handed(strategy: Any, rule: Any, tokens: Tokens) -> Tokens:
    """Tokens as a strategy wants them: as they are where it says that its kernels read them so, else widened.

    Gates are the caller's to widen. Masks among the tokens stay masks.
    """
    takes = getattr(strategy, "takes", None)
    if takes is not None and takes(rule, tokens.q):
        return tokens
    return tokens.map(lambda one: widened(one) if one.is_floating_point() else one)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A block in which autocast is off; on devices that know no autocast, an empty one."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # hecate: allow FL-03 -- nothing to switch off is no downshift
