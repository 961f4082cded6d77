"""How much shared memory the kernels of `affine` take, and how many rows of the memory fit into a block.

The lists repeat the carvings of affine.cu and affine_backward.cuh; the host backend refuses a launch that
gives too little, and a test refuses one that gives too much.
"""

import torch

CHUNK = 32
THREADS = 256
SHARED_LIMIT = 99 * 1024  # what every card since sm_86 gives a block


def shared_bytes(key_width: int, rows: int, element: torch.dtype, has_momentum: bool, backward: bool) -> int:
    """Bytes of dynamic shared memory of one block; every piece is rounded up to 128."""
    size = element.itemsize
    pad = 1 if size == 4 else 8
    width = -(-key_width // 16) * 16
    c, m = CHUNK, int(has_momentum)
    ld_k, ld_r, ld_e = width + pad, rows + pad, c + pad
    optional = lambda count: m * count + 1  # noqa: E731
    elements: list[int]
    floats: list[int]
    if backward:
        elements = [c * ld_k] * 2 + [rows * ld_k] * 2 + [optional(rows * ld_k)] * 2
        elements += [c * ld_r] * 7 + [optional(c * ld_r)] * 3 + [c * ld_e] * 3
        floats = [rows * (width + 1), optional(rows * (width + 1)), c * (rows + 1), optional(c * (rows + 1))]
        floats += [c * (c + 1)] * 5 + [optional(c * (c + 1)), c * c // 4, 12 * c + 3, THREADS // 32]
    else:
        elements = [c * ld_k] * 2 + [c * ld_r] * 3 + [optional(c * ld_r), rows * ld_k, optional(rows * ld_k)]
        elements += [c * ld_e] * 2
        floats = [c * (rows + 1)] + [c * (c + 1)] * 3 + [optional(c * (c + 1)), c * c // 4]
        floats += [rows * (width + 1), optional(rows * (width + 1))]
    floats += [5 * c, 3 * (c + 1)]
    pieces = [count * size for count in elements] + [count * 4 for count in floats]
    return sum(-(-piece // 128) * 128 for piece in pieces)


def rows_per_block(key_width: int, value_width: int, element: torch.dtype, has_momentum: bool) -> int:
    """The most rows of the memory, a multiple of 16 up to 64, that fit both directions and the memory."""
    most = min(64, -(-value_width // 16) * 16)
    for rows in (64, 48, 32, 16):
        if rows <= most and shared_bytes(key_width, rows, element, has_momentum, backward=True) <= SHARED_LIMIT:
            return rows
    return 16
