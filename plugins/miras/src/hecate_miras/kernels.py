"""The kernel pair of the op `linked_linear`: blocks walk tokens and hold the evidence of one at a time."""

from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hecate_kernels.launch import LaunchedPair
from hecate_kernels.layout import THREADS, carved, padded
from hecate_kernels.operands import ELEMENTS
from hecate_kernels.pair import Argument, Budget, Kernel, KernelPair, Out, Trial, constants

from hecate_core.api import InputError, Tensor, is_shaping
from hecate_miras.linked_linear import LinkedReads
from hecate_miras.links import KINDS, LinkOption
from hecate_miras.trials import trials

STEP = "linked_step"  # the forward of a single update
MOST_SPACE = 1 << 29  # bytes of workspace of one launch
GROUPS = 4  # of tokens in the backward, each with gradients of its own that are added up; no more, they cost memory
KERNELS = KernelPair(
    op="linked_linear",
    source=Path(__file__).with_name("linked_linear.cu"),
    forward="linked_forward",
    backward="linked_backward",
    head_sizes=(1, 1024),
    has_state=False,  # what is stored goes on through `decayed_linear`
    budgets={
        "linked_forward": Budget(registers=255, shared_bytes=164 * 1024),
        "linked_backward": Budget(registers=255, shared_bytes=164 * 1024),
        "linked_step": Budget(registers=255, shared_bytes=71 * 1024),
    },
)


class _Shape(NamedTuple):
    """Sizes of a call; what a kernel is specialised by."""

    keys: int
    values: int
    chunk: int
    parts: int
    element: torch.dtype
    kind: str
    exponent: float
    near: int

    @classmethod
    def fitting(cls, reads: LinkedReads, link: LinkOption, backward: bool, limit: int) -> "_Shape":
        """As much in shared memory as fits into `limit` bytes."""
        count, values = reads.u.shape[2:]
        widths = (reads.q.shape[3], values, chunk_of(count, backward), reads.stored.shape[2])
        return cls.of(widths, reads.q.dtype, link, limit)

    @classmethod
    def of(cls, widths: tuple[int, int, int, int], element: torch.dtype, link: LinkOption, limit: int) -> "_Shape":
        """The same from numbers: keys, values, chunk, stored matrices."""
        exponent = link.exponent if link.kind in ("printed", "powered") else 1.0
        shapes = [cls(*widths, element, link.kind, exponent, near) for near in (2, 1, 0)]
        return next(one for one in shapes if one.shared_bytes <= limit or one is shapes[-1])

    @property
    def _evidence(self) -> int:
        return padded(self.values) * (padded(self.keys) + 1)

    @property
    def _texts(self) -> int:
        return self.chunk * (2 * (padded(self.values) + 1) + padded(self.keys) + 1)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of one block; repeats the carvings of linked_linear.cu."""
        v, k = padded(self.values), padded(self.keys)
        near = [self._evidence if self.near == 2 else 1, self._texts if self.near else 1]
        return carved([], [k, v, v, k, self.chunk, THREADS // 32, *near], torch.float32)

    @property
    def workspace(self) -> int:
        """Floats of global memory of one block."""
        return (0 if self.near == 2 else self._evidence) + (0 if self.near else self._texts)

    def kernel(self, symbol: str, source: Path) -> Kernel:
        """The entry point specialised for this shape."""
        return _kernel(self, symbol, source)


def chunk_of(count: int, backward: bool) -> int:
    """Rows of updates as the kernels see them."""
    return 1 if count == 1 and not backward else padded(count)


@lru_cache(maxsize=1024)
def _kernel(shape: _Shape, symbol: str, source: Path) -> Kernel:
    given = constants(
        HEAD_K=shape.keys,
        HEAD_V=shape.values,
        CHUNK=shape.chunk,
        PARTS=shape.parts,
        THREADS=THREADS,
        ELEMENT=ELEMENTS[shape.element],
        FORWARD=int(symbol != KERNELS.backward),
        STEP=int(symbol == STEP),
        LINK=KINDS.index(shape.kind),
        EXPONENT=f"{shape.exponent!r}f",
        NEAR=shape.near,
    )
    return Kernel(source, symbol, given, shape.shared_bytes)


class LinkedKernels(LaunchedPair):
    """The op on kernels; `where` is a launcher or the name of a backend."""

    op = "linked_linear"
    declared = KERNELS

    def forward(self, reads: LinkedReads, link: LinkOption) -> Tensor:
        """See `hecate_miras.linked_linear.LinkedLinearPair`."""
        reads = _accepted(reads)
        batch, heads, count, _ = reads.q.shape
        y = reads.u.new_empty(batch, heads, count, reads.u.shape[3])
        self._launch([*reads, Out(y)], reads, link, count, backward=False)
        return y

    def backward(self, reads: LinkedReads, link: LinkOption, d_y: Tensor) -> LinkedReads:
        """See `hecate_miras.linked_linear.LinkedLinearPair`."""
        reads = _accepted(reads)
        if not is_shaping() and reads.q.shape[2] == 0:
            return LinkedReads(*map(torch.zeros_like, reads))
        groups = GROUPS if is_shaping() else min(GROUPS, max(1, reads.q.shape[2]))
        dq, d_reach, d_shares = (torch.empty_like(one) for one in (reads.q, reads.reach, reads.shares))
        parts = [reads.stored.new_empty(groups, *one.shape) for one in (reads.u, reads.x, reads.stored)]
        arguments = [*reads, d_y.to(reads.q.dtype).contiguous(), *map(Out, (dq, *parts, d_reach, d_shares))]
        self._launch(arguments, reads, link, groups, backward=True)
        du, dx, d_stored = (one.sum(0) for one in parts)
        return LinkedReads(dq, du.to(reads.u.dtype), dx.to(reads.x.dtype), d_stored, d_reach, d_shares)

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """Every link at one size, columns and the printed norm at the sizes of networks, and the single update."""
        source = self.kernels.source
        for kind in KINDS:
            shape = _Shape.of((64, 64, 16, 1), torch.float32, LinkOption(kind, 1.0, 4.0), shared_limit)
            yield from (shape.kernel(symbol, source) for symbol in KERNELS.symbols)
        for widths in ((16, 64, 16, 1), (64, 256, 16, 2), (256, 64, 64, 1), (512, 128, 16, 1), (256, 1024, 64, 2)):
            for kind in ("column", "printed"):
                shape = _Shape.of(widths, torch.bfloat16, LinkOption(kind, 1.0, 4.0), shared_limit)
                yield from (shape.kernel(symbol, source) for symbol in KERNELS.symbols)
                yield shape._replace(chunk=1).kernel(STEP, source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        """See `hecate_miras.trials`."""
        return trials(partial(LinkedKernels, source=self.kernels.source), thorough)

    def _launch(
        self, arguments: list[Argument], reads: LinkedReads, link: LinkOption, groups: int, backward: bool
    ) -> None:
        if is_shaping():  # sizes may be symbols, which specialise nothing
            return
        shape = _Shape.fitting(reads, link, backward, self._where.shared_limit(reads.q))
        symbol = KERNELS.backward if backward else STEP if shape.chunk == 1 else KERNELS.forward
        batch, heads, count, _ = reads.q.shape
        items = batch * heads * groups
        if items == 0 or count == 0:
            return
        blocks = min(items, self._where.most_blocks, max(1, MOST_SPACE // (4 * max(1, shape.workspace))))
        space = reads.stored.new_empty(max(1, blocks * shape.workspace))
        numbers = [np.int32(one) for one in (batch * heads, groups, count, reads.u.shape[2])]
        self._where.launch(
            shape.kernel(symbol, self.kernels.source),
            (blocks, 1, 1),
            (THREADS, 1, 1),
            [*arguments, Out(space), np.float32(link.level), *numbers],
            shape.shared_bytes,
        )


class LinkedOnHost(LinkedKernels):
    """The pair `linked_linear` on the CPU: the kernels themselves, on fibers."""

    def __init__(self) -> None:
        super().__init__("host")


class LinkedOnGpu(LinkedKernels):
    """The pair `linked_linear` on an NVIDIA GPU, compiled at run time."""

    def __init__(self) -> None:
        super().__init__("nvrtc")


def _accepted(reads: LinkedReads) -> LinkedReads:
    """Tensors as the kernels read them; InputError with the limits for what they cannot take."""
    tokens = reads[:3]
    if tokens[0].dtype not in ELEMENTS or len({one.dtype for one in tokens}) > 1:
        given = ", ".join(str(one.dtype).removeprefix("torch.") for one in tokens)
        raise InputError(
            f'op "linked_linear": q, u, x are {given}; its kernels take float32 or bfloat16, '
            'or use backend = "reference"'
        )
    return LinkedReads(*(one.contiguous() for one in tokens), *(one.float().contiguous() for one in reads[3:]))
