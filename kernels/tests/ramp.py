"""A pair as a stranger writes it: one op, one `.cu`, its cases and its truth, nothing of ours but the kit."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from hecate_kernels.launch import launcher
from hecate_kernels.pair import FLOAT32, Argument, Budget, Kernel, KernelPair, Launcher, Out, Outputs, Trial, constants
from torch import Tensor

from hecate_core.api import Float

THREADS = 128


class RampPair:
    """Running sums that forget, row by row."""

    op = "ramp"
    backend = "host"

    def __init__(self, source: Path | None = None, where: Launcher | None = None) -> None:
        self._where = where or launcher("host")
        self.kernels = KernelPair(
            op="ramp",
            source=source or Path(__file__).with_name("ramp.cu"),
            forward="ramp_forward",
            backward="ramp_backward",
            head_sizes=(1, 1),
            dtypes=("float32",),
            budgets={"ramp_forward": Budget(registers=64), "ramp_backward": Budget(registers=64)},
            tolerance={"float32": FLOAT32},
        )

    def forward(self, x: Float[Tensor, "R T"], keep: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """y_t = keep_t y_{t-1} + x_t `[R, T]`, and what the backward wants."""
        y = torch.empty_like(x)
        self._launch("ramp_forward", [x, keep, Out(y)], x.shape)
        return y, (keep,)

    def backward(self, saved: tuple[Tensor, ...], y: Tensor, d_y: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients by x and keep."""
        d_x, d_keep = torch.empty_like(y), torch.empty_like(y)
        self._launch("ramp_backward", [*saved, y, d_y, Out(d_x), Out(d_keep)], y.shape)
        return d_x, d_keep

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """Forward and backward; nothing else varies."""
        return [self._kernel(symbol) for symbol in self.kernels.symbols]

    def trials(self, thorough: bool) -> Iterable[Trial]:
        """Lengths that divide by nothing."""
        for length in (1, 7, 100, 257) if thorough else (7, 257):
            x, keep, dy = _inputs(length)
            yield Trial(
                f"T {length}",
                "float32",
                run=lambda where, given=(x, keep, dy): self._run(where, *given),
                truth=lambda given=(x, keep, dy): _truth(*given),
                length=length,
                width=1,
            )

    def _kernel(self, symbol: str) -> Kernel:
        return Kernel(self.kernels.source, symbol, constants(THREADS=THREADS))

    def _launch(self, symbol: str, arguments: list[Argument], shape: torch.Size) -> None:
        rows, length = shape
        given = [*arguments, np.int32(length)]
        self._where.launch(self._kernel(symbol), (rows, 1, 1), (THREADS, 1, 1), given, THREADS * 4)

    def _run(self, where: Launcher, x: Tensor, keep: Tensor, d_y: Tensor) -> Outputs:
        pair = RampPair(self.kernels.source, where)
        y, saved = pair.forward(x, keep)
        d_x, d_keep = pair.backward(saved, y, d_y)
        return {"y": y, "d_x": d_x, "d_keep": d_keep}


def _inputs(length: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    x, dy = torch.randn(2, 3, length, generator=generator)
    return x, torch.rand(3, length, generator=generator), dy


def _truth(x: Tensor, keep: Tensor, dy: Tensor) -> Outputs:
    wide, held = (one.double().requires_grad_() for one in (x, keep))
    rows = [torch.zeros(x.shape[0], dtype=torch.float64)]
    for t in range(x.shape[1]):
        rows.append(held[:, t] * rows[-1] + wide[:, t])
    y = torch.stack(rows[1:], 1)
    y.backward(dy.double())
    return {"y": y.detach(), "d_x": wide.grad, "d_keep": held.grad}
