"""How much shared memory the kernels of `affine` take, and how many rows of the memory fit into a block.

The lists repeat the carvings of affine.cu and affine_backward.cuh; the host backend refuses a launch that
gives too little, and a test refuses one that gives too much.
"""

from typing import NamedTuple

import torch

from hecate_core.api import InputError

SIZES = ((32, 64), (32, 48), (32, 32), (16, 64), (16, 32), (32, 16), (16, 16))  # chunk and rows, best first
THREADS = 256


class Layout(NamedTuple):
    """Tokens handled together, and rows of the memory that a block owns."""

    chunk: int
    rows: int


def shared_bytes(key_width: int, layout: Layout, element: torch.dtype, has_momentum: bool, backward: bool) -> int:
    """Bytes of dynamic shared memory of one block; every piece is rounded up to 128."""
    size = element.itemsize
    pad = 1 if size == 4 else 8
    width = -(-key_width // 16) * 16
    (c, rows), m = layout, int(has_momentum)
    copy = 0 if size == 4 else 1  # of what is kept in fp32, where operands are narrower
    ld_k, ld_r, ld_e = width + pad, rows + pad, c + pad
    optional = lambda count: m * count + 1  # noqa: E731
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
    pieces = [count * size for count in elements] + [count * 4 for count in floats]
    return sum(-(-piece // 128) * 128 for piece in pieces)


def fitting(key_width: int, value_width: int, element: torch.dtype, has_momentum: bool, limit: int) -> Layout:
    """The best chunk and rows that `limit` bytes of shared memory hold in both directions.

    Raises InputError where not even the smallest fit.
    """
    most = -(-value_width // 16) * 16
    for layout in map(Layout._make, SIZES):
        if layout.rows <= most and shared_bytes(key_width, layout, element, has_momentum, backward=True) <= limit:
            return layout
    raise InputError(
        f'op "affine": head size {key_width} in {str(element).removeprefix("torch.")} needs '
        f"{shared_bytes(key_width, Layout(16, 16), element, has_momentum, backward=True)} bytes of shared memory, "
        f'this card gives {limit}; use a smaller head or backend = "reference"'
    )
