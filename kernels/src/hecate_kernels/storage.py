"""What a tensor occupies in memory, as bytes: kernels take strides, so views are passed as they lie."""

import ctypes

import numpy as np
import torch
from torch import Tensor

from hecate_kernels.failure import KernelError


def span(tensor: Tensor) -> Tensor:
    """The bytes from the tensor's first to its last element, gaps of a view included, without a copy."""
    if tensor.numel() == 0:
        return torch.empty(0, dtype=torch.uint8)
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((last + 1,), (1,)).view(torch.uint8)


def poison(tensor: Tensor) -> None:
    """Fills with 0xFF: NaN in every float type, -1 in integers, so that what is not written shows."""
    if tensor.numel():
        span(tensor).fill_(0xFF)


class WidthError(KernelError, TypeError):
    """A launch argument that is neither a tensor nor a scalar of a known width."""


def demand_width(value: object) -> None:
    """Raises WidthError for anything but a typed scalar (numpy or ctypes): a bare Python number has no width."""
    if not isinstance(value, (np.generic, ctypes._SimpleCData)):
        shown = f"{type(value).__name__} {value!r}"[:80]
        raise WidthError(f"{shown} has no width; pass numpy.int32(...) or numpy.float32(...)")


def scalar_bytes(value: object) -> bytes:
    """The bytes of a typed scalar."""
    demand_width(value)
    return bytes(value) if isinstance(value, ctypes._SimpleCData) else bytes(value.tobytes())  # type: ignore[attr-defined]


def behind_alignment(tensor: Tensor) -> int:
    """Bytes from the last multiple of 256 to where a tensor begins on a GPU, whose allocations start at one."""
    return int(tensor.storage_offset()) * tensor.element_size() % 256
