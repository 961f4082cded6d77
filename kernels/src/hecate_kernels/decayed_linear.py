"""The kernel pair of the op `decayed_linear`: a chunk of reads through weights that grow token by token.

It carries every memory under the strategy `frozen`, matrix or MLP. A block owns some rows of the stored
matrices; gradients that sum over rows come out per row group and are added up here. Of wide keys, such as the
hidden channels of an MLP, a block holds a tile at a time. It takes bf16, but `frozen` hands it fp32: docs/kernels.md.
"""

import itertools
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hecate_core.api import Decays, Reads
from hecate_kernels.decayed_trials import trials
from hecate_kernels.launch import LaunchedPair
from hecate_kernels.layout import THREADS, carved, fitting, padded
from hecate_kernels.operands import ELEMENTS, accepted
from hecate_kernels.pair import Budget, Kernel, KernelPair, Out, Trial, constants

KERNELS = KernelPair(
    op="decayed_linear",
    source=Path(__file__).with_name("decayed_linear.cu"),
    forward="decayed_forward",
    backward="decayed_backward",
    head_sizes=(1, 1 << 16),  # wide keys are walked in tiles
    chunk=64,
    budgets={
        "decayed_forward": Budget(registers=255, shared_bytes=227 * 1024),
        "decayed_backward": Budget(registers=255, shared_bytes=227 * 1024),
        "decayed_step": Budget(registers=96, shared_bytes=0),
    },
)
STEP = "decayed_step"  # the forward of a chunk of one token


class Tiled(NamedTuple):
    """Tokens handled together, rows of the memory that a block owns, channels of the keys that it holds at once."""

    chunk: int
    rows: int
    tile: int


def _layouts(chunk: int, width: int) -> Iterator[Tiled]:
    """Best first: all channels at once, then as few tiles as possible, of at least 32 channels, then of 16."""
    rows = (64, 32, 16)
    tiles = {padded(-(-width // count)): None for count in range(2, padded(width) // 16)}
    yield from (Tiled(chunk, one, padded(width)) for one in rows)
    yield from (Tiled(chunk, one, tile) for one in rows for tile in tiles if tile >= 32)
    yield Tiled(chunk, 16, 16)


class _Shape(NamedTuple):
    """Sizes of a call; what a kernel is specialised by."""

    key_width: int
    value_width: int
    parts: int
    element: torch.dtype
    layout: Tiled

    @classmethod
    @lru_cache(maxsize=1024)
    def fitting(cls, widths: tuple[int, int], count: int, parts: int, element: torch.dtype, limit: int) -> "_Shape":
        """As many channels and rows at once as fit into `limit` bytes of shared memory."""
        place = f'op "decayed_linear": a chunk of {count} updates of width {widths[0]}'
        needs = partial(shared_bytes, widths[0], parts, element, backward=True)
        sizes = _layouts(padded(count), widths[0])
        return cls(*widths, parts, element, fitting(place, sizes, widths[1], needs, limit, "a shorter chunk"))

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
        TILE=shape.layout.tile,
        PARTS=shape.parts,
        THREADS=THREADS,
        ELEMENT=ELEMENTS[shape.element],
        FORWARD=int(symbol == KERNELS.forward),
        STEP=int(symbol == STEP),
    )
    backward = symbol == KERNELS.backward
    sizes = (shape.key_width, shape.parts, shape.element, shape.layout)
    return Kernel(source, symbol, given, 0 if symbol == STEP else shared_bytes(*sizes, backward))


@lru_cache(maxsize=1024)
def shared_bytes(key_width: int, parts: int, element: torch.dtype, layout: Tiled, backward: bool) -> int:
    """Bytes of dynamic shared memory of one block; repeats the carvings of decayed_linear.cu."""
    narrow = element.itemsize < 4
    pad = 8 if narrow else 1
    c, rows, tile = layout
    ld_w, ld_r, ld_e = tile + pad, rows + pad, c + pad
    elements = [c * ld_w] * 2 + [c * ld_r, parts * c * ld_r, parts * rows * ld_w, c * ld_e]
    floats = [c * parts] * 2
    if backward:
        elements += [c * ld_r, parts * c * ld_r, parts * rows * ld_w, c * ld_e if narrow else 1]
        floats += [parts * c * (rows + 1), c * (c + 1), THREADS // 32]
    else:
        floats += [c * (rows + 1), c * (c + 1) if tile < padded(key_width) else 1]
    return carved(elements, floats, element)


class DecayedKernels(LaunchedPair):
    """The op on kernels; `where` is a launcher or the name of a backend."""

    op = "decayed_linear"
    declared = KERNELS
    longest = 64  # updates whose scores fit beside the tiles on every card

    def forward(self, reads: Reads, stored: Tensor, decays: Decays) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """See `hecate_core.api.DecayedLinearPair`; saves its inputs and recomputes the scores."""
        count = reads.q.shape[2]
        reads, decays = _squared(reads, decays)
        flat = accepted(self.op, reads, KERNELS.head_sizes[1])
        given = [one.contiguous() for one in flat] + [one.float().contiguous() for one in (stored, *decays)]
        shape = self._shape(given)
        y, end = torch.empty_like(given[1]), torch.empty_like(given[3])
        arguments = [*given, Out(y), Out(end)]
        if given[0].shape[2] == given[1].shape[2] == 1:
            self._step(shape, arguments, given[0])
        else:
            self._launch(shape, KERNELS.forward, arguments, given[0])
        return y[:, :, _read_rows(count, y.shape[2])], end, tuple(given)

    def backward(self, saved: tuple[Tensor, ...], d_y: Tensor, d_end: Tensor) -> tuple[Reads, Tensor, Decays]:
        """See `hecate_core.api.DecayedLinearPair`."""
        q, u, x, stored, *decays = saved
        shape, read = self._shape(saved), _read_rows(d_y.shape[2], u.shape[2])
        if d_y.shape[2] < u.shape[2]:
            d_y = _between_silence(d_y, u.shape[2])
        parts = [stored.new_empty(shape.groups, *one.shape) for one in (q, x, *decays)]
        dq, dx, d_reach, d_reads, d_ends, d_carry = parts
        du, d_stored = torch.empty_like(u), torch.empty_like(stored)
        given = [*saved, d_y.to(u.dtype).contiguous(), d_end.float().contiguous()]
        out = map(Out, (dq, du, dx, d_stored, d_reach, d_reads, d_ends, d_carry))
        self._launch(shape, KERNELS.backward, [*given, *out], q)
        dq, dx, *d_decays = (one.sum(0) for one in parts)
        made = Decays._make(d_decays)
        made = made._replace(reach=made.reach[:, :, read], reads=made.reads[:, :, read])
        return Reads(dq[:, :, read].to(q.dtype), du, dx.to(x.dtype)), d_stored, made

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """Square and MLP-shaped matrices, with and without momentum; the largest networks with it."""
        small = ((16, 16), (64, 64), (128, 128), (64, 256), (256, 64))
        large = ((100, 400), (128, 512), (256, 1024))
        sizes = [*itertools.product(small, (1, 2)), *((widths[::way], 2) for widths in large for way in (1, -1))]
        for element, (widths, parts) in itertools.product(ELEMENTS, sizes):
            shape = _Shape.fitting(widths, KERNELS.chunk, parts, element, shared_limit)
            for symbol in (*KERNELS.symbols, STEP):
                yield shape.kernel(symbol, self.kernels.source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        """See `hecate_kernels.decayed_trials`."""
        return trials(partial(DecayedKernels, source=self.kernels.source), thorough)

    def _shape(self, given: tuple[Tensor, ...] | list[Tensor]) -> _Shape:
        q, u, _, stored = given[:4]
        limit = self._where.shared_limit(q)
        widths = (int(q.shape[3]), int(u.shape[3]))
        return _Shape.fitting(widths, int(q.shape[2]), int(stored.shape[2]), q.dtype, limit)

    def _step(self, shape: _Shape, arguments: list[object], q: Tensor) -> None:
        batch, heads, _, _ = q.shape
        grid = (-(-shape.value_width // (THREADS // 32)), batch * heads, 1)
        self._where.launch(shape.kernel(STEP, self.kernels.source), grid, (THREADS, 1, 1), arguments)

    def _launch(self, shape: _Shape, symbol: str, arguments: list[object], q: Tensor) -> None:
        batch, heads, count, _ = q.shape
        self._where.launch(
            shape.kernel(symbol, self.kernels.source),
            (shape.groups, batch * heads, 1),
            (THREADS, 1, 1),
            [*arguments, np.int32(count)],
            shared_bytes(
                shape.key_width, shape.parts, shape.element, shape.layout, backward=symbol == KERNELS.backward
            ),
        )


class DecayedOnHost(DecayedKernels):
    """The pair `decayed_linear` on the CPU: the kernels themselves, on fibers."""

    def __init__(self) -> None:
        super().__init__("host")


class DecayedOnGpu(DecayedKernels):
    """The pair `decayed_linear` on an NVIDIA GPU, compiled at run time."""

    def __init__(self) -> None:
        super().__init__("nvrtc")


def _squared(reads: Reads, decays: Decays) -> tuple[Reads, Decays]:
    """A read per update: groups of updates are read after their last one, an end alone not at all."""
    count, updates = reads.q.shape[2], reads.u.shape[2]
    if count == updates:
        return reads, decays
    q, reach, shares = (_between_silence(one, updates) for one in (reads.q, decays.reach, decays.reads))
    return reads._replace(q=q), decays._replace(reach=reach, reads=shares)


def _read_rows(count: int, updates: int) -> slice:
    """Where the reads stand among the updates."""
    return slice(0, 0) if count == 0 else slice(updates // count - 1, None, updates // count)


def _between_silence(rows: Tensor, updates: int) -> Tensor:
    """Rows `[B, H, T, ...]` where their updates are, zeros elsewhere."""
    spread = rows.new_zeros(*rows.shape[:2], updates, rows.shape[3])
    spread[:, :, _read_rows(rows.shape[2], updates)] = rows
    return spread
