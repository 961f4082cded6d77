"""The kernel pair of the op `newton_schulz`: blocks walk matrices, the small side squared in shared memory."""

from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hecate_kernels.launch import LaunchedPair
from hecate_kernels.layout import THREADS, carved, padded
from hecate_kernels.operands import ELEMENTS
from hecate_kernels.pair import Budget, Kernel, KernelPair, Out, Trial, constants

from hecate_atlas.newton_schulz import COEFFICIENTS
from hecate_atlas.trials import trials
from hecate_core.api import InputError, Tensor, is_shaping

TILE = 32  # columns at a time
MOST_SPACE = 1 << 29  # bytes of workspace of one launch
WIDEST = 256  # of the small side
KERNELS = KernelPair(
    op="newton_schulz",
    source=Path(__file__).with_name("newton_schulz.cu"),
    forward="newton_schulz_forward",
    backward="newton_schulz_backward",
    head_sizes=(1, 1 << 16),
    has_tokens=False,
    has_state=False,
    budgets={
        "newton_schulz_forward": Budget(registers=255, shared_bytes=211 * 1024),
        "newton_schulz_backward": Budget(registers=255, shared_bytes=213 * 1024),
    },
)


class _Layout(NamedTuple):
    """What lies in shared memory."""

    x_shared: bool
    squares_shared: bool


class _Shape(NamedTuple):
    """Sizes of a call; what a kernel is specialised by."""

    values: int
    keys: int
    steps: int
    element: torch.dtype
    backward: bool
    layout: _Layout

    @classmethod
    def fitting(cls, matrix: Tensor, steps: int, backward: bool, limit: int) -> "_Shape":
        """As much in shared memory as fits into `limit` bytes."""
        return cls.of(matrix.shape[-2], matrix.shape[-1], steps, matrix.dtype, backward, limit)

    @classmethod
    def of(cls, values: int, keys: int, steps: int, element: torch.dtype, backward: bool, limit: int) -> "_Shape":
        """The same from numbers."""
        layouts = [_Layout(not backward, True), _Layout(False, True), _Layout(False, False)]
        shapes = [cls(values, keys, steps, element, backward, layout) for layout in layouts]
        return next(one for one in shapes if one.shared_bytes <= limit or one is shapes[-1])

    @property
    def _square(self) -> int:
        return padded(self.values) * (padded(self.values) + 1)

    @property
    def _iterate(self) -> int:
        return padded(self.values) * (-(-self.keys // TILE) * TILE + 1)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of one block; repeats the carvings of newton_schulz.cu."""
        squares = (4 if self.backward else 2) * self._square * self.layout.squares_shared
        floats = [padded(self.values) * (TILE + 1), THREADS // 32, squares + 1]
        return carved(
            [], floats if self.backward else [*floats, self._iterate * self.layout.x_shared + 1], torch.float32
        )

    @property
    def workspace(self) -> int:
        """Floats of global memory of one block."""
        squares = 0 if self.layout.squares_shared else (4 if self.backward else 2) * self._square
        iterates = self.steps + 1 if self.backward else 1
        return squares + (0 if self.layout.x_shared else iterates * self._iterate)

    def kernel(self, source: Path) -> Kernel:
        """The entry point specialised for this shape."""
        return _kernel(self, source)


@lru_cache(maxsize=1024)
def _kernel(shape: _Shape, source: Path) -> Kernel:
    given = constants(
        VALUES=shape.values,
        KEYS=shape.keys,
        STEPS=shape.steps,
        THREADS=THREADS,
        ELEMENT=ELEMENTS[shape.element],
        FORWARD=int(not shape.backward),
        X_SHARED=int(shape.layout.x_shared),
        SQUARES_SHARED=int(shape.layout.squares_shared),
    )
    return Kernel(source, KERNELS.backward if shape.backward else KERNELS.forward, given, shape.shared_bytes)


class NewtonSchulzKernels(LaunchedPair):
    """The op on kernels; `where` is a launcher or the name of a backend."""

    op = "newton_schulz"
    declared = KERNELS

    def forward(self, matrix: Tensor, steps: int, coefficients: str) -> Tensor:
        """See `NewtonSchulzPair`."""
        matrix = _accepted(matrix)
        result = torch.empty_like(matrix)
        self._launch(matrix, steps, coefficients, [matrix, Out(result)], backward=False)
        return result

    def backward(self, matrix: Tensor, steps: int, coefficients: str, d_out: Tensor) -> Tensor:
        """See `NewtonSchulzPair`."""
        matrix = _accepted(matrix)
        d_matrix = torch.empty_like(matrix)
        arguments = [matrix, d_out.to(matrix.dtype).contiguous(), Out(d_matrix)]
        self._launch(matrix, steps, coefficients, arguments, backward=True)
        return d_matrix

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """Square matrices, mapped keys, and steps of two kinds."""
        sizes = {"float32": ((16, 16), (16, 153), (64, 2145), (100, 100), (128, 128), (256, 256))}
        for element in ELEMENTS:
            for values, keys in sizes.get(str(element).removeprefix("torch."), ((64, 64), (128, 128))):
                for backward in (False, True):
                    yield _Shape.of(values, keys, 5, element, backward, shared_limit).kernel(self.kernels.source)

    def trials(self, thorough: bool) -> Iterator[Trial]:
        """See `hecate_atlas.trials`."""
        return trials(partial(NewtonSchulzKernels, source=self.kernels.source), thorough)

    def _launch(self, matrix: Tensor, steps: int, coefficients: str, arguments: list[object], backward: bool) -> None:
        if is_shaping():  # sizes may be symbols, which specialise nothing
            return
        shape = _Shape.fitting(matrix, steps, backward, self._where.shared_limit(matrix))
        count = matrix.shape[0]
        blocks = min(count, self._where.most_blocks, max(1, MOST_SPACE // (4 * max(1, shape.workspace))))
        space = matrix.new_empty(max(1, blocks * shape.workspace), dtype=torch.float32)
        weights = [np.float32(one) for one in COEFFICIENTS[coefficients]]
        self._where.launch(
            shape.kernel(self.kernels.source),
            (blocks, 1, 1),
            (THREADS, 1, 1),
            [*arguments, Out(space), *weights, np.int32(count)],
            shape.shared_bytes,
        )


class NewtonSchulzOnHost(NewtonSchulzKernels):
    """The pair `newton_schulz` on the CPU: the kernels themselves, on fibers."""

    def __init__(self) -> None:
        super().__init__("host")


class NewtonSchulzOnGpu(NewtonSchulzKernels):
    """The pair `newton_schulz` on an NVIDIA GPU, compiled at run time."""

    def __init__(self) -> None:
        super().__init__("nvrtc")


def _accepted(matrix: Tensor) -> Tensor:
    """Matrices as the kernels read them; InputError with the limits for what they cannot take."""
    if matrix.dtype not in ELEMENTS:
        given = str(matrix.dtype).removeprefix("torch.")
        raise InputError(
            f'op "newton_schulz": a matrix is {given}; its kernels take float32 or bfloat16, '
            'or use backend = "reference"'
        )
    if matrix.shape[-2] > WIDEST:
        raise InputError(
            f'op "newton_schulz": a matrix of {matrix.shape[-2]} x {matrix.shape[-1]}; its kernels square up to '
            f'{WIDEST} rows, or use backend = "reference"'
        )
    return matrix.contiguous()
