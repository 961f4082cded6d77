"""The kernel pair of the op `affine_column` (KDA): a decay per key channel, exact in any chunking.

As `affine`, a block owns some rows of one head's memory and walks the chunks; what differs is that the way
from token to token is a vector per channel, formed without a division.
"""

from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hecate_core.api import ColumnTokens, InputError
from hecate_kernels.column_layout import SIZES, shared_bytes
from hecate_kernels.column_trials import trials
from hecate_kernels.launch import LaunchedPair
from hecate_kernels.layout import THREADS, Layout, fitting
from hecate_kernels.operands import ELEMENTS, accepted, or_nothing, plain, strides, unit_stride
from hecate_kernels.pair import Budget, Kernel, KernelPair, Out, Trial, constants

KERNELS = KernelPair(
    op="affine_column",
    source=Path(__file__).with_name("affine_column.cu"),
    forward="column_forward",
    backward="column_backward",
    head_sizes=(1, 256),
    chunk=16,
    budgets={
        "column_forward": Budget(registers=255, shared_bytes=137 * 1024),
        "column_backward": Budget(registers=255, shared_bytes=205 * 1024),
        "column_step": Budget(registers=64, shared_bytes=0),
    },
)
STEP = "column_step"  # the forward of a single token


class _Shape(NamedTuple):
    """Sizes and switches of a call; what a kernel is specialised by."""

    key_width: int
    value_width: int
    element: torch.dtype
    has_erase: bool
    layout: Layout

    @classmethod
    @lru_cache(maxsize=1024)
    def fitting(cls, widths: tuple[int, int], element: torch.dtype, has_erase: bool, limit: int) -> "_Shape":
        """As much at once as fits into `limit` bytes of shared memory."""
        place = f'op "affine_column": head size {widths[0]} in {str(element).removeprefix("torch.")}'
        needs = partial(_needs, widths[0], element)
        return cls(*widths, element, has_erase, fitting(place, SIZES, widths[1], needs, limit))

    @property
    def groups(self) -> int:
        """Blocks per head."""
        return -(-self.value_width // self.layout.rows)

    def kernel(self, symbol: str, source: Path) -> Kernel:
        """The entry point specialised for this shape."""
        return _kernel(self, symbol, source)


@lru_cache(maxsize=1024)
def _kernel(shape: _Shape, symbol: str, source: Path) -> Kernel:
    given = constants(
        HEAD_K=shape.key_width,
        HEAD_V=shape.value_width,
        CHUNK=shape.layout.chunk,
        ROWS=shape.layout.rows,
        THREADS=THREADS,
        ELEMENT=ELEMENTS[shape.element],
        ERASE=int(shape.has_erase),
        FORWARD=int(symbol == KERNELS.forward),
        STEP=int(symbol == STEP),
    )
    backward = symbol == KERNELS.backward
    shared = 0 if symbol == STEP else shared_bytes(shape.key_width, shape.layout, shape.element, backward)
    return Kernel(source, symbol, given, shared)


class ColumnKernels(LaunchedPair):
    """The op on kernels; `where` is a launcher or the name of a backend."""

    op = "affine_column"
    declared = KERNELS

    def forward(self, tokens: ColumnTokens, memory: Tensor, chunk: int) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """See `hecate_core.api.ColumnPair`; `chunk` is the reference's affair, the result is exact anyway."""
        tokens, shape = self._taken(tokens)
        batch, heads, length, _ = tokens.k.shape
        chunks = -(-length // shape.layout.chunk)
        memory = memory.float().contiguous()
        if length == 1:
            return self._step(shape, tokens, memory)
        y = tokens.v.new_empty(batch, heads, length, shape.value_width)
        starts = tokens.v.new_empty(batch, heads, chunks, shape.value_width, shape.key_width)
        updates, end = torch.empty_like(y), torch.empty_like(memory)
        self._where.launch(
            shape.kernel("column_forward", self.kernels.source),
            (shape.groups, batch * heads, 1),
            (THREADS, 1, 1),
            [
                *tokens[:3],
                *strides(*tokens[:3]),
                *(or_nothing(one, memory) for one in tokens[3:]),
                memory,
                *map(Out, (y, end, starts, updates)),
                np.int32(heads),
                np.int32(length),
            ],
            shared_bytes(shape.key_width, shape.layout, shape.element, backward=False),
        )
        return y, end, (starts, updates)

    def backward(
        self, tokens: ColumnTokens, saved: tuple[Tensor, ...], chunk: int, d_out: Tensor, d_end: Tensor
    ) -> tuple[ColumnTokens, Tensor]:
        """See `hecate_core.api.ColumnPair`."""
        tokens, shape = self._taken(tokens)
        batch, heads, length, width = tokens.k.shape
        if length == 1:  # what a chunk's forward would have saved of its start
            saved = (saved[0].to(tokens.v.dtype).unsqueeze(2), saved[1])
        d_out = unit_stride(d_out.to(tokens.v.dtype))
        d_end = d_end.float().contiguous()
        d_memory = torch.empty_like(d_end)
        by_channel = d_end.new_empty(4, shape.groups, batch, heads, length, width)
        dv = torch.empty_like(tokens.v, memory_format=torch.contiguous_format)
        d_write = d_end.new_empty(shape.groups, batch, heads, length)
        self._where.launch(
            shape.kernel("column_backward", self.kernels.source),
            (shape.groups, batch * heads, 1),
            (THREADS, 1, 1),
            [
                *tokens[:3],
                d_out,
                *strides(*tokens[:3], d_out),
                *(or_nothing(one, d_end) for one in tokens[3:]),
                *saved,
                d_end,
                *map(Out, (*by_channel, dv, d_write, d_memory)),
                np.int32(heads),
                np.int32(length),
            ],
            shared_bytes(shape.key_width, shape.layout, shape.element, backward=True),
        )
        dq, dk, d_keep, d_erase = by_channel.sum(1)
        like = tokens.q.dtype
        erase = None if tokens.erase is None else d_erase
        return ColumnTokens(dq.to(like), dk.to(like), dv, d_keep, erase, d_write.sum(0)), d_memory

    def _step(self, shape: _Shape, tokens: ColumnTokens, memory: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        batch, heads, _, _ = tokens.k.shape
        y = tokens.v.new_empty(batch, heads, 1, shape.value_width)
        updates, end = torch.empty_like(y), torch.empty_like(memory)
        self._where.launch(
            shape.kernel(STEP, self.kernels.source),
            (-(-shape.value_width // (THREADS // 32)), batch * heads, 1),
            (THREADS, 1, 1),
            [
                *tokens[:3],
                *(np.int64(stride) for one in tokens[:3] for stride in one.stride()[:2]),
                *(or_nothing(one, memory) for one in tokens[3:]),
                memory,
                *map(Out, (y, end, updates)),
                np.int32(heads),
            ],
        )
        return y, end, (memory, updates)

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """All head sizes with erasing, one without."""
        for element in ELEMENTS:
            for width, has_erase in ((16, True), (64, True), (100, True), (128, True), (256, True), (64, False)):
                try:
                    shape = _Shape.fitting((width, width), element, has_erase, shared_limit)
                except InputError:
                    continue  # said at the call, with what would fit
                for symbol in (*KERNELS.symbols, STEP):
                    yield shape.kernel(symbol, self.kernels.source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        """See `hecate_kernels.column_trials`."""
        return trials(partial(ColumnKernels, source=self.kernels.source), thorough)

    def _taken(self, tokens: ColumnTokens) -> tuple[ColumnTokens, _Shape]:
        flat = accepted("affine_column", tokens[:3], KERNELS.head_sizes[1])
        taken = ColumnTokens(*flat, *(plain(one) for one in tokens[3:]))
        widths = (int(taken.k.shape[-1]), int(taken.v.shape[-1]))
        limit = self._where.shared_limit(taken.v)
        return taken, _Shape.fitting(widths, taken.v.dtype, taken.erase is not None, limit)


class ColumnOnHost(ColumnKernels):
    """The pair `affine_column` on the CPU: the kernels themselves, on fibers."""

    def __init__(self) -> None:
        super().__init__("host")


class ColumnOnGpu(ColumnKernels):
    """The pair `affine_column` on an NVIDIA GPU, compiled at run time."""

    def __init__(self) -> None:
        super().__init__("nvrtc")


def _needs(key_width: int, element: torch.dtype, layout: Layout) -> int:
    return shared_bytes(key_width, layout, element, backward=True)
