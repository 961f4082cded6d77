"""How much shared memory the kernels of `affine_column` take; the lists repeat the carvings of affine_column.cu."""

from functools import lru_cache

import torch

from hecate_kernels.layout import Layout, carved, padded

SIZES = [Layout(16, rows) for rows in (64, 32, 16)]


@lru_cache(maxsize=1024)
def shared_bytes(key_width: int, layout: Layout, element: torch.dtype, backward: bool) -> int:
    """Bytes of dynamic shared memory of one block."""
    pad = 1 if element.itemsize == 4 else 8
    copy = 0 if element.itemsize == 4 else 1  # of what is kept in fp32, where operands are narrower
    width = padded(key_width)
    c, rows = layout
    ld_k, ld_f, ld_r, ld_e = width + pad, width + 1, rows + pad, c + pad
    elements = [c * ld_k] * 5 + [c * ld_r] * 2 + [copy * c * ld_e + 1, c * ld_e, copy * rows * ld_k + 1]
    floats = [c * ld_f] * 2 + [width, c] + [c * (c + 1)] * 2 + [c * c // 4, rows * ld_f]
    if backward:
        elements += [c * ld_r] * 3 + [rows * ld_k]
        floats += [c * ld_f] * 3
    return carved(elements, floats, element)
