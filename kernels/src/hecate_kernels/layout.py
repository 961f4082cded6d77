"""How a chunked kernel is cut to a card: tokens at a time and rows per block, by shared memory."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, TypeVar

import torch

from hecate_core.api import InputError

THREADS = 256


class Layout(NamedTuple):
    """Tokens handled together, and rows of the memory that a block owns."""

    chunk: int
    rows: int


class HasRows(Protocol):
    """A way to cut work to a block."""

    @property
    def rows(self) -> int:
        """Rows of the memory that a block owns."""
        ...


LayoutT = TypeVar("LayoutT", bound=HasRows)


def padded(width: int) -> int:
    """A head size as the kernels see it: filled up with zeros to a multiple of 16."""
    return -(-width // 16) * 16


def carved(elements: Iterable[int], floats: Iterable[int], element: torch.dtype) -> int:
    """Bytes of dynamic shared memory for so many operands and fp32 numbers each; pieces are rounded up to 128."""
    pieces = [count * element.itemsize for count in elements] + [count * 4 for count in floats]
    return sum(-(-piece // 128) * 128 for piece in pieces)


def fitting(
    place: str,
    sizes: Iterable[LayoutT],
    value_width: int,
    needs: Callable[[LayoutT], int],
    limit: int,
    instead: str = "a smaller head",
) -> LayoutT:
    """The first of `sizes` whose shared memory fits into `limit` bytes and that wastes no rows.

    Raises InputError, which starts with `place` and says to use what is given as `instead`, where none fits.
    """
    least = 0
    for layout in sizes:
        if layout.rows > padded(value_width):
            continue
        least = needs(layout)
        if least <= limit:
            return layout
    raise InputError(
        f'{place} needs {least} bytes of shared memory, this card gives {limit}; use {instead} or backend = "reference"'
    )
