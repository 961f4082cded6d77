"""The kernel pair of the op `affine`: one fused kernel per direction, exact in any chunking.

A block owns some rows of one head's memory and walks the chunks; rows do not see each other. Head sizes
are padded to 16 inside the kernel, T may be anything, resting tokens are neutral coefficients, views are
read as they lie (any strides but a unit one over the last axis).
"""

from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hecate_core.api import AffineTokens, InputError
from hecate_kernels.affine_layout import SIZES, shared_bytes
from hecate_kernels.affine_trials import trials
from hecate_kernels.launch import LaunchedPair
from hecate_kernels.layout import THREADS, Layout, fitting
from hecate_kernels.operands import ELEMENTS, accepted, or_nothing, plain, strides, unit_stride
from hecate_kernels.pair import Budget, Kernel, KernelPair, Launcher, Out, Trial, constants

KERNELS = KernelPair(
    op="affine",
    source=Path(__file__).with_name("affine.cu"),
    forward="affine_forward",
    backward="affine_backward",
    head_sizes=(1, 256),
    chunk=32,
    budgets={
        "affine_forward": Budget(registers=255, shared_bytes=136 * 1024),
        "affine_backward": Budget(
            registers=255,
            shared_bytes=225 * 1024,
            spill_bytes=80,
            spill_reason="sm_90a, bf16, heads of 97 to 112: 48 rows of 112 columns do not divide among 8 warps",
        ),
        "affine_step": Budget(registers=64, shared_bytes=0),
    },
)


STEP = "affine_step"  # the forward of a single token


class _Shape(NamedTuple):
    """Sizes and switches of a call; what a kernel is specialised by."""

    key_width: int
    value_width: int
    element: torch.dtype
    has_erase: bool
    has_momentum: bool
    has_inject: bool
    layout: Layout

    @classmethod
    def of(cls, tokens: AffineTokens, limit: int) -> "_Shape":
        """The shape of a call where a block has `limit` bytes of shared memory."""
        switches = (tokens.erase is not None, tokens.momentum is not None, tokens.inject is not None)
        return cls.fitting((int(tokens.k.shape[-1]), int(tokens.v.shape[-1])), tokens.v.dtype, switches, limit)

    @classmethod
    @lru_cache(maxsize=1024)
    def fitting(
        cls, widths: tuple[int, int], element: torch.dtype, switches: tuple[bool, bool, bool], limit: int
    ) -> "_Shape":
        """As much at once as fits into `limit` bytes; switches are erase, momentum, inject."""
        place = f'op "affine": head size {widths[0]} in {str(element).removeprefix("torch.")}'

        def needs(layout: Layout) -> int:
            return shared_bytes(widths[0], layout, element, switches[1], backward=True)

        return cls(*widths, element, *switches, fitting(place, SIZES, widths[1], needs, limit))

    @property
    def groups(self) -> int:
        """Blocks per head."""
        return -(-self.value_width // self.layout.rows)

    def kernel(self, symbol: str, source: Path, save: bool = True) -> Kernel:
        """The entry point specialised for this shape."""
        return _kernel(self, symbol, source, save)

    def shared_bytes(self, backward: bool) -> int:
        """Dynamic shared memory of one block."""
        return shared_bytes(self.key_width, self.layout, self.element, self.has_momentum, backward=backward)


@lru_cache(maxsize=1024)
def _kernel(shape: _Shape, symbol: str, source: Path, save: bool) -> Kernel:
    given = constants(
        HEAD_K=shape.key_width,
        HEAD_V=shape.value_width,
        CHUNK=shape.layout.chunk,
        ROWS=shape.layout.rows,
        THREADS=THREADS,
        ELEMENT=ELEMENTS[shape.element],
        MOMENTUM=int(shape.has_momentum),
        ERASE=int(shape.has_erase),
        INJECT=int(shape.has_inject),
        SAVE=int(save),
        FORWARD=int(symbol == KERNELS.forward),
        STEP=int(symbol == STEP),
    )
    shared = 0 if symbol == STEP else shape.shared_bytes(backward=symbol == KERNELS.backward)
    return Kernel(source, symbol, given, shared)


class AffineKernels(LaunchedPair):
    """The op on kernels; `where` is a launcher or the name of a backend."""

    op = "affine"
    declared = KERNELS

    def forward(
        self, tokens: AffineTokens, memory: Tensor, surprise: Tensor | None, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, ...]]:
        """See `hecate_core.api.AffinePair`; `chunk` is the reference's affair, the result is exact anyway."""
        tokens, shape = _accepted(tokens, self._where)
        batch, heads, length, _ = tokens.k.shape
        if length == 1:
            return self._step(shape, tokens, memory.float().contiguous(), plain(surprise))
        chunks = -(-length // shape.layout.chunk)
        parts = 1 + shape.has_momentum
        y = tokens.v.new_empty(batch, heads, length, shape.value_width)
        starts = tokens.v.new_empty(batch, heads, chunks, parts, shape.value_width, shape.key_width)
        updates = torch.empty_like(y)
        memory = memory.float().contiguous()
        surprise = plain(surprise)
        end = torch.empty_like(memory)
        surprise_end = torch.empty_like(or_nothing(surprise, memory))
        self._where.launch(
            shape.kernel("affine_forward", self.kernels.source),
            (shape.groups, batch * heads, 1),
            (THREADS, 1, 1),
            [
                *tokens[:3],
                *strides(*tokens[:3]),
                *(or_nothing(one, memory) for one in tokens[3:]),
                memory,
                or_nothing(surprise, memory),
                Out(y),
                Out(end),
                Out(surprise_end),
                Out(starts),
                Out(updates),
                np.int32(heads),
                np.int32(length),
            ],
            shape.shared_bytes(backward=False),
        )
        return y, end, None if surprise is None else surprise_end, (starts, updates)

    def backward(
        self,
        tokens: AffineTokens,
        saved: tuple[Tensor, ...],
        chunk: int,
        d_out: Tensor,
        d_ends: tuple[Tensor, Tensor | None],
    ) -> tuple[AffineTokens, Tensor, Tensor | None]:
        """See `hecate_core.api.AffinePair`."""
        if tokens.v.shape[2] == 1 and tokens.v.dtype != torch.float32:
            return self._step_backward(tokens, saved, chunk, d_out, d_ends)
        tokens, shape = _accepted(tokens, self._where)
        batch, heads, length, _ = tokens.k.shape
        if length == 1:  # what a chunk's forward would have saved of its start
            saved = (torch.stack(saved[:-1], 2), saved[-1])
        d_out = unit_stride(d_out.to(tokens.v.dtype))
        d_memory_end, d_surprise_end = d_ends
        d_memory_end = d_memory_end.float().contiguous()
        given_end = or_nothing(plain(d_surprise_end), d_memory_end)
        d_memory, d_surprise = torch.empty_like(d_memory_end), torch.empty_like(given_end)
        dq, dk = d_memory_end.new_empty(2, shape.groups, batch, heads, length, shape.key_width)
        dv = torch.empty_like(tokens.v, memory_format=torch.contiguous_format)
        d_coefficients = dq.new_empty(shape.groups, 5, batch, heads, length)
        self._where.launch(
            shape.kernel("affine_backward", self.kernels.source),
            (shape.groups, batch * heads, 1),
            (THREADS, 1, 1),
            [
                *tokens[:3],
                d_out,
                *strides(*tokens[:3], d_out),
                *(or_nothing(one, d_memory) for one in tokens[3:]),
                *saved,
                d_memory_end,
                given_end,
                *map(Out, (dq, dk, dv, d_coefficients, d_memory, d_surprise)),
                np.int32(heads),
                np.int32(length),
            ],
            shape.shared_bytes(backward=True),
        )
        by_coefficient = d_coefficients.sum(0).unbind(0)
        grads = [
            dq.sum(0).to(tokens.q.dtype),
            dk.sum(0).to(tokens.k.dtype),
            dv,
            *(None if one is None else by for one, by in zip(tokens[3:], by_coefficient, strict=True)),
        ]
        return AffineTokens._make(grads), d_memory, None if d_surprise_end is None else d_surprise

    def _step(
        self, shape: _Shape, tokens: AffineTokens, memory: Tensor, surprise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, ...]]:
        batch, heads, _, _ = tokens.k.shape
        y = tokens.v.new_empty(batch, heads, 1, shape.value_width)
        updates, end = torch.empty_like(y, dtype=torch.float32), torch.empty_like(memory)
        surprise_end = torch.empty_like(or_nothing(surprise, memory))
        rows = THREADS // 32
        self._where.launch(
            shape.kernel(STEP, self.kernels.source),
            (-(-shape.value_width // rows), batch * heads, 1),
            (THREADS, 1, 1),
            [
                *tokens[:3],
                *(np.int64(stride) for one in tokens[:3] for stride in one.stride()[:2]),
                *(or_nothing(one, memory) for one in tokens[3:]),
                memory,
                or_nothing(surprise, memory),
                *map(Out, (y, end, surprise_end, updates)),
                np.int32(heads),
            ],
        )
        if surprise is None:
            return y, end, None, (memory, updates)
        return y, end, surprise_end, (memory, surprise, updates)

    def _step_backward(
        self,
        tokens: AffineTokens,
        saved: tuple[Tensor, ...],
        chunk: int,
        d_out: Tensor,
        d_ends: tuple[Tensor, Tensor | None],
    ) -> tuple[AffineTokens, Tensor, Tensor | None]:
        """A single token in fp32: its gates' gradients are one sum each, where a rounded state would cancel badly."""
        wide = AffineTokens._make(None if one is None else one.float() for one in tokens)
        back, d_memory, d_surprise = self.backward(wide, saved, chunk, d_out, d_ends)
        narrow = {name: getattr(back, name).to(tokens.v.dtype) for name in ("q", "k", "v")}
        return back._replace(**narrow), d_memory, d_surprise

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """Everything switched on at all head sizes; the simpler rules at one."""
        everything, delta, hebbian = (True, True, True), (True, False, False), (False, False, False)
        cases = [(width, everything) for width in (16, 64, 100, 128, 256)] + [(64, delta), (64, hebbian)]
        for element in ELEMENTS:
            for width, switches in cases:
                try:
                    shape = _Shape.fitting((width, width), element, switches, shared_limit)
                except InputError:
                    continue  # said at the call, with what would fit
                for symbol in (*KERNELS.symbols, STEP):
                    yield shape.kernel(symbol, self.kernels.source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        """See `hecate_kernels.affine_trials`."""
        return trials(partial(AffineKernels, source=self.kernels.source), thorough)


class AffineOnHost(AffineKernels):
    """The pair `affine` on the CPU: the kernels themselves, on fibers."""

    def __init__(self) -> None:
        super().__init__("host")


class AffineOnGpu(AffineKernels):
    """The pair `affine` on an NVIDIA GPU, compiled at run time."""

    def __init__(self) -> None:
        super().__init__("nvrtc")


def _accepted(tokens: AffineTokens, where: Launcher) -> tuple[AffineTokens, _Shape]:
    """Tokens as the kernels read them; InputError with the limits for what they cannot take."""
    flat = accepted("affine", tokens[:3], KERNELS.head_sizes[1])
    taken = AffineTokens(*flat, *(plain(one) for one in tokens[3:]))
    return taken, _Shape.of(taken, where.shared_limit(taken.v))
