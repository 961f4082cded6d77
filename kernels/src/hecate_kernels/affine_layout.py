"""How much shared memory the kernels of `affine` take.

The lists repeat the carvings of affine.cu and affine_backward.cuh; the host backend refuses a launch that
gives too little, and a test refuses one that gives too much.
"""

from functools import lru_cache

import torch

from hecate_kernels.layout import THREADS, Layout, carved, padded

SIZES = [Layout(*one) for one in ((32, 64), (32, 48), (32, 32), (16, 64), (16, 32), (32, 16), (16, 16))]  # best first


@lru_cache(maxsize=1024)
def shared_bytes(key_width: int, layout: Layout, element: torch.dtype, has_momentum: bool, backward: bool) -> int:
    """Bytes of dynamic shared memory of one block; every piece is rounded up to 128."""
    size = element.itemsize
    pad = 1 if size == 4 else 8
    width = padded(key_width)
    (c, rows), m = layout, int(has_momentum)
    copy = 0 if size == 4 else 1  # of what is kept in fp32, where operands are narrower
    ld_k, ld_r, ld_e = width + pad, rows + pad, c + pad

    def optional(count: int) -> int:
        return m * count + 1

    elements: list[int]
    floats: list[int]
    if backward:
        elements = [c * ld_k] * 2 + [rows * ld_k, copy * rows * ld_k + 1]
        elements += [optional(rows * ld_k), copy * m * rows * ld_k + 1]
        elements += [c * ld_r] * 7 + [optional(c * ld_r)] * 3 + [copy * c * ld_e + 1] + [c * ld_e] * 2
        floats = [rows * (width + 1), optional(rows * (width + 1)), c * (rows + 1), optional(c * (rows + 1))]
        floats += [c * (c + 1)] * 5 + [optional(c * (c + 1)), c * c // 4, 12 * c + 3, THREADS // 32]
    else:
        elements = [c * ld_k] * 2 + [c * ld_r] * 3 + [optional(c * ld_r)]
        elements += [copy * rows * ld_k + 1, copy * m * rows * ld_k + 1]
        elements += [copy * c * ld_e + 1, c * ld_e]
        floats = [c * (rows + 1)] + [c * (c + 1)] * 3 + [optional(c * (c + 1)), c * c // 4]
        floats += [rows * (width + 1), optional(rows * (width + 1))]
    floats += [5 * c, 3 * (c + 1)]
    return carved(elements, floats, element)
