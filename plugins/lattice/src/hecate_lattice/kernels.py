"""The kernel pair of the op `lattice`: one block per head, the slots in its registers, a barrier per token."""

from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from hecate_kernels.launch import LaunchedPair
from hecate_kernels.operands import ELEMENTS, accepted, or_nothing, plain, strides, unit_stride
from hecate_kernels.pair import Argument, Budget, Kernel, KernelPair, Out, Trial, constants
from hecate_kernels.slots import Slots, carved_slots, launch_slots

from hecate_core.api import Tensor
from hecate_lattice.losses import LOSSES
from hecate_lattice.op import LatticeTokens
from hecate_lattice.trials import trials

STEP = "lattice_step"  # the forward of a single token
_SPILLS = "128 x 128 slots and their gradient take 128 registers of every thread, addresses and sums the rest"
WIDEST = 256
KERNELS = KernelPair(
    op="lattice",
    source=Path(__file__).with_name("lattice.cu"),
    forward="lattice_forward",
    backward="lattice_backward",
    head_sizes=(1, 128),  # any two of them together; wider ones only beside narrow ones
    chunk=32,
    budgets={
        "lattice_forward": Budget(registers=255, shared_bytes=0),
        "lattice_backward": Budget(registers=255, shared_bytes=0, spill_bytes=96, spill_reason=_SPILLS),
        STEP: Budget(registers=192, shared_bytes=0),
    },
)


class _Shape(NamedTuple):
    """Sizes and switches of a call; what a kernel is specialised by."""

    slots: Slots
    element: torch.dtype
    option: str
    has_retain: bool
    masked: bool

    @classmethod
    def of(cls, tokens: LatticeTokens, option: str) -> "_Shape":
        """The shape of a call."""
        slots = Slots.of("lattice", tokens.k.shape[-1], tokens.v.shape[-1], tokens.k.shape[2])
        return cls(slots, tokens.v.dtype, option, tokens.retain is not None, tokens.due is not None)

    def kernel(self, symbol: str, source: Path) -> Kernel:
        """The entry point specialised for this shape."""
        return _kernel(self, symbol, source)

    def shared_bytes(self, backward: bool) -> int:
        """Dynamic shared memory of one block; repeats the carvings of lattice.cu."""
        s = self.slots
        texts = [s.chunk * s.number] * 2 + [s.chunk * s.wide, 3 * s.chunk]
        if backward:
            return carved_slots([*texts, s.chunk * s.wide, 2 * s.warps * s.wide, 4 * s.warps, s.warps * 6 * s.per_warp])
        return carved_slots([*texts, 4 * s.warps * s.wide, s.warps * 3 * s.per_warp])


@lru_cache(maxsize=1024)
def _kernel(shape: _Shape, symbol: str, source: Path) -> Kernel:
    given = constants(
        **shape.slots.constants(),
        ELEMENT=ELEMENTS[shape.element],
        VARIANT=list(LOSSES).index(shape.option),
        RETAIN=int(shape.has_retain),
        MASKED=int(shape.masked),
        FORWARD=int(symbol != KERNELS.backward),
        STEP=int(symbol == STEP),
    )
    return Kernel(source, symbol, given)


class LatticeKernels(LaunchedPair):
    """The op on kernels; `where` is a launcher or the name of a backend."""

    op = "lattice"
    declared = KERNELS

    def forward(self, tokens: LatticeTokens, state: Tensor, option: str) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """See `hecate_core.api.SequencePair`; saves the first slots and those at the start of later chunks."""
        tokens, slots = _accepted(tokens), state.float().contiguous()
        shape = _Shape.of(tokens, option)
        batch, heads, length, width = tokens.v.shape
        later = -(-length // shape.slots.chunk) - 1
        y, end = tokens.v.new_empty(batch, heads, length, width), torch.empty_like(slots)
        starts = slots.new_empty(batch * heads, later, shape.slots.held)
        arguments = [*tokens[:3], *strides(*tokens[:3]), *_gates(tokens, slots), slots, *map(Out, (y, end, starts))]
        self._launch(shape, STEP if length == 1 else KERNELS.forward, arguments, tokens)
        return y, end, (slots, starts)

    def backward(
        self, tokens: LatticeTokens, saved: tuple[Tensor, ...], option: str, d_out: Tensor, d_end: Tensor
    ) -> tuple[LatticeTokens, Tensor]:
        """See `hecate_core.api.SequencePair`."""
        tokens, (slots, starts) = _accepted(tokens), saved
        shape = _Shape.of(tokens, option)
        d_out = unit_stride(d_out.to(tokens.v.dtype))
        dq, dk, dv = (torch.empty_like(one, memory_format=torch.contiguous_format) for one in tokens[:3])
        d_write, d_slots = torch.empty_like(tokens.write), torch.empty_like(slots)
        d_retain = torch.empty_like(or_nothing(tokens.retain, slots))
        per_token = shape.slots.held + (shape.slots.deep + 2) * shape.slots.threads
        kept = slots.new_empty(slots.shape[0] * slots.shape[1], shape.slots.chunk, per_token)
        outputs = (dq, dk, dv, d_write, d_retain, d_slots, kept)
        inputs = [*tokens[:3], d_out, *strides(*tokens[:3], d_out), *_gates(tokens, slots), slots, starts]
        arguments = [*inputs, d_end.float().contiguous(), *map(Out, outputs)]
        self._launch(shape, KERNELS.backward, arguments, tokens)
        by_retain = None if tokens.retain is None else d_retain
        return LatticeTokens(dq, dk, dv, d_write, by_retain, None), d_slots

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """The default loss at all sizes, every loss with all switches on at one, and the single token there."""
        sizes = {"float32": ((16, 16), (64, 64), (100, 100), (128, 128), (256, 64), (64, 256))}
        for element in ELEMENTS:
            for number, width in sizes.get(str(element).removeprefix("torch."), ((64, 64), (128, 128))):
                shape = _Shape(Slots.of("lattice", number, width, 64), element, "decode", False, False)
                yield from (shape.kernel(symbol, self.kernels.source) for symbol in KERNELS.symbols)
        for option in LOSSES:
            shape = _Shape(Slots.of("lattice", 64, 64, 64), torch.float32, option, True, True)
            yield from (shape.kernel(symbol, self.kernels.source) for symbol in KERNELS.symbols)
            yield shape._replace(slots=Slots.of("lattice", 64, 64, 1)).kernel(STEP, self.kernels.source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        """See `hecate_lattice.trials`."""
        return trials(partial(LatticeKernels, source=self.kernels.source), thorough)

    def _launch(self, shape: _Shape, symbol: str, arguments: list[Argument], tokens: LatticeTokens) -> None:
        make = partial(shape.kernel, symbol, self.kernels.source)
        shared = shape.shared_bytes(backward=symbol == KERNELS.backward)
        launch_slots(self._where, make, shape.slots, arguments, tokens.v, shared)


class LatticeOnHost(LatticeKernels):
    """The pair `lattice` on the CPU: the kernels themselves, on fibers."""

    def __init__(self) -> None:
        super().__init__("host")


class LatticeOnGpu(LatticeKernels):
    """The pair `lattice` on an NVIDIA GPU, compiled at run time."""

    def __init__(self) -> None:
        super().__init__("nvrtc")


def _accepted(tokens: LatticeTokens) -> LatticeTokens:
    """Tokens as the kernels read them; InputError with the limits for what they cannot take."""
    flat = accepted("lattice", tokens[:3], WIDEST)
    return LatticeTokens(*flat, *(plain(one) for one in tokens[3:]))


def _gates(tokens: LatticeTokens, like: Tensor) -> list[Tensor]:
    return [or_nothing(one, like) for one in tokens[3:]]
