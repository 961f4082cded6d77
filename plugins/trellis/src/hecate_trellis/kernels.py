"""The kernel pair of the op `trellis`: one block per head, the store in its registers.

With an elementwise map and slots that answer, warps do not wait for each other inside a chunk.
"""

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
from hecate_trellis.maps import MAPS
from hecate_trellis.op import SIDES, TrellisTokens, option_of, options_in
from hecate_trellis.trials import trials

STEP = "trellis_step"  # the forward of a single token
_SPILLS = "128 x 128 numbers and their gradient take 128 registers of every thread, addresses and sums the rest"
WIDEST = 256
KERNELS = KernelPair(
    op="trellis",
    source=Path(__file__).with_name("trellis.cu"),
    forward="trellis_forward",
    backward="trellis_backward",
    head_sizes=(1, 128),  # any two of them together; wider ones only beside narrow ones
    chunk=32,
    budgets={
        "trellis_forward": Budget(registers=255, shared_bytes=0),
        "trellis_backward": Budget(registers=255, shared_bytes=0, spill_bytes=96, spill_reason=_SPILLS),
        STEP: Budget(registers=192, shared_bytes=0),
    },
)


class _Shape(NamedTuple):
    """Sizes and switches of a call; what a kernel is specialised by."""

    slots: Slots
    element: torch.dtype
    option: str
    masked: bool

    @classmethod
    def of(cls, tokens: TrellisTokens, option: str) -> "_Shape":
        """The shape of a call."""
        slots = Slots.of("trellis", tokens.code.shape[-1], tokens.w.shape[-1], tokens.w.shape[2])
        return cls(slots, tokens.w.dtype, option, tokens.due is not None)

    def kernel(self, symbol: str, source: Path) -> Kernel:
        """The entry point specialised for this shape."""
        return _kernel(self, symbol, source)

    def shared_bytes(self, backward: bool) -> int:
        """Dynamic shared memory of one block; repeats the carvings of trellis.cu."""
        s = self.slots
        phi, turned = options_in(self.option)
        all_slots = s.number if MAPS[phi].whole else 0
        texts = [s.chunk * one for one in (s.number if turned else s.wide, s.wide, s.number, 3)]
        if backward:
            shares = 2 * (1 if turned else 2) * s.warps * s.wide
            answers = s.chunk * (s.wide if turned else s.number)
            return carved_slots([*texts, answers, shares, 4 * s.warps, 4 * all_slots + 1, s.warps * 2 * s.per_warp])
        shares = 2 * s.warps * s.wide if turned else 0
        return carved_slots([*texts, shares + 1, 2 * all_slots + 1, s.warps * s.per_warp])


@lru_cache(maxsize=1024)
def _kernel(shape: _Shape, symbol: str, source: Path) -> Kernel:
    phi, turned = options_in(shape.option)
    given = constants(
        **shape.slots.constants(),
        ELEMENT=ELEMENTS[shape.element],
        PHI=list(MAPS).index(phi),
        ENTRIES=int(turned),
        MASKED=int(shape.masked),
        FORWARD=int(symbol != KERNELS.backward),
        STEP=int(symbol == STEP),
    )
    return Kernel(source, symbol, given)


class TrellisKernels(LaunchedPair):
    """The op on kernels; `where` is a launcher or the name of a backend."""

    op = "trellis"
    declared = KERNELS

    def forward(self, tokens: TrellisTokens, state: Tensor, option: str) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """See `hecate_core.api.SequencePair`; saves the first store and those at the start of later chunks."""
        tokens, store = _accepted(tokens), state.float().contiguous()
        shape = _Shape.of(tokens, option)
        batch, heads, length, _ = tokens.w.shape
        later = -(-length // shape.slots.chunk) - 1
        answers = shape.slots.width if options_in(option)[1] else shape.slots.number
        y, end = tokens.w.new_empty(batch, heads, length, answers), torch.empty_like(store)
        starts = store.new_empty(batch * heads, later, shape.slots.held)
        arguments = [*tokens[:3], *strides(*tokens[:3]), *_gates(tokens, store), store, *map(Out, (y, end, starts))]
        self._launch(shape, STEP if length == 1 else KERNELS.forward, arguments, tokens)
        return y, end, (store, starts)

    def backward(
        self, tokens: TrellisTokens, saved: tuple[Tensor, ...], option: str, d_out: Tensor, d_end: Tensor
    ) -> tuple[TrellisTokens, Tensor]:
        """See `hecate_core.api.SequencePair`."""
        tokens, (store, starts) = _accepted(tokens), saved
        shape = _Shape.of(tokens, option)
        d_out = unit_stride(d_out.to(tokens.w.dtype))
        dq, dw, d_code = (torch.empty_like(one, memory_format=torch.contiguous_format) for one in tokens[:3])
        d_retain, d_write, d_store = (torch.empty_like(one) for one in (tokens.retain, tokens.write, store))
        per_token = shape.slots.held + 2 * shape.slots.threads
        kept = store.new_empty(store.shape[0] * store.shape[1], shape.slots.chunk, per_token)
        outputs = (dq, dw, d_code, d_retain, d_write, d_store, kept)
        inputs = [*tokens[:3], d_out, *strides(*tokens[:3], d_out), *_gates(tokens, store), store, starts]
        arguments = [*inputs, d_end.float().contiguous(), *map(Out, outputs)]
        self._launch(shape, KERNELS.backward, arguments, tokens)
        return TrellisTokens(dq, dw, d_code, d_retain, d_write, None), d_store

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """Keys and values under the default map at all sizes, every map and the single token at one."""
        sizes = {"float32": ((16, 16), (100, 100), (128, 128), (256, 64), (64, 256))}
        for element in ELEMENTS:
            for number, width in sizes.get(str(element).removeprefix("torch."), ((64, 64), (128, 128))):
                for side in SIDES:
                    shape = _Shape(Slots.of("trellis", number, width, 64), element, option_of("silu", side), False)
                    yield from (shape.kernel(symbol, self.kernels.source) for symbol in KERNELS.symbols)
        for phi, side in zip(MAPS, SIDES * len(MAPS), strict=False):
            shape = _Shape(Slots.of("trellis", 64, 64, 64), torch.float32, option_of(phi, side), True)
            yield from (shape.kernel(symbol, self.kernels.source) for symbol in KERNELS.symbols)
            yield shape._replace(slots=Slots.of("trellis", 64, 64, 1)).kernel(STEP, self.kernels.source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        """See `hecate_trellis.trials`."""
        return trials(partial(TrellisKernels, source=self.kernels.source), thorough)

    def _launch(self, shape: _Shape, symbol: str, arguments: list[Argument], tokens: TrellisTokens) -> None:
        make = partial(shape.kernel, symbol, self.kernels.source)
        shared = shape.shared_bytes(backward=symbol == KERNELS.backward)
        launch_slots(self._where, make, shape.slots, arguments, tokens.w, shared)


class TrellisOnHost(TrellisKernels):
    """The pair `trellis` on the CPU: the kernels themselves, on fibers."""

    def __init__(self) -> None:
        super().__init__("host")


class TrellisOnGpu(TrellisKernels):
    """The pair `trellis` on an NVIDIA GPU, compiled at run time."""

    def __init__(self) -> None:
        super().__init__("nvrtc")


def _accepted(tokens: TrellisTokens) -> TrellisTokens:
    """Tokens as the kernels read them; InputError with the limits for what they cannot take."""
    q, w, code = accepted("trellis", tokens[:3], WIDEST)
    retain, write = tokens.retain.float().contiguous(), tokens.write.float().contiguous()
    return TrellisTokens(q, w, code, retain, write, plain(tokens.due))


def _gates(tokens: TrellisTokens, like: Tensor) -> list[Tensor]:
    return [or_nothing(one, like) for one in tokens[3:]]
