"""Tensors as kernels take them: dtypes that fit, strides as they lie, something where there is nothing."""

import numpy as np
import torch
from torch import Tensor

from hecate_core.api import InputError

ELEMENTS = {torch.float32: "float", torch.bfloat16: "bf16"}


def accepted(op: str, tokens: tuple[Tensor, ...], widest: int) -> list[Tensor]:
    """q, k, v with the last axis lying together; InputError with the limits for what kernels cannot take."""
    if tokens[0].dtype not in ELEMENTS or len({one.dtype for one in tokens}) > 1:
        given = ", ".join(str(one.dtype).removeprefix("torch.") for one in tokens)
        raise InputError(
            f'op "{op}": q, k, v are {given}; its kernels take float32 or bfloat16, or use backend = "reference"'
        )
    if max(one.shape[-1] for one in tokens) > widest:
        raise InputError(
            f'op "{op}": head sizes {tokens[1].shape[-1]} and {tokens[2].shape[-1]}; '
            f'its kernels take up to {widest}, or use backend = "reference"'
        )
    return [unit_stride(one) for one in tokens]


def unit_stride(one: Tensor) -> Tensor:
    """A view whose last axis lies together is taken as it is; broadcast and turned ones are copied."""
    fits = one.stride(-1) == 1 and all(stride > 0 for stride in one.stride())
    return one if fits else one.contiguous()


def plain(one: Tensor | None) -> Tensor | None:
    """fp32 and contiguous, as coefficients and memories are."""
    return None if one is None else one.float().contiguous()


def strides(*given: Tensor) -> list[np.int64]:
    """Batch, head and token strides of each."""
    return [np.int64(stride) for one in given for stride in one.stride()[:3]]


def or_nothing(one: Tensor | None, like: Tensor) -> Tensor:
    """What stands where a kernel takes a pointer that this specialisation never follows."""
    return like.new_empty(1, dtype=torch.float32) if one is None else one
