"""The kernel pair of the op `lattice`: one block per head, the slots in its threads' hands, a barrier per token."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from hecate_kernels.operands import ELEMENTS
from hecate_kernels.pair import Kernel, Trial
from hecate_kernels.slot_pair import SlotCall, SlotKernels, declared_slots
from hecate_kernels.slots import Slots

from hecate_lattice.losses import LOSSES
from hecate_lattice.op import LatticeTokens
from hecate_lattice.trials import trials


class LatticeKernels(SlotKernels[LatticeTokens]):
    """The op on kernels; `where` is a launcher or the name of a backend."""

    op = "lattice"
    declared = declared_slots("lattice", Path(__file__).with_name("lattice.cu"))
    tokens = LatticeTokens

    @classmethod
    def sizes(cls, tokens: LatticeTokens) -> tuple[int, int]:
        """See `SlotKernels`."""
        return tokens.k.shape[-1], tokens.v.shape[-1]

    @classmethod
    def switches(cls, call: SlotCall) -> dict[str, int]:
        """See `SlotKernels`."""
        _, has_retain, masked = call.given
        return {"VARIANT": list(LOSSES).index(call.option), "RETAIN": int(has_retain), "MASKED": int(masked)}

    @classmethod
    def floats(cls, call: SlotCall, backward: bool) -> list[int]:
        """See `SlotKernels`; repeats the carvings of lattice.cu."""
        s = call.slots
        texts = [s.chunk * s.number] * 2 + [s.chunk * s.wide, 3 * s.chunk]
        if backward:
            return [*texts, s.chunk * s.wide, 2 * s.warps * s.wide, 4 * s.warps, s.warps * 6 * s.per_warp]
        return [*texts, 4 * s.warps * s.wide, s.warps * 3 * s.per_warp]

    @classmethod
    def kept(cls, call: SlotCall) -> int:
        """See `SlotKernels`."""
        return call.slots.deep + 2

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """The default loss at all sizes, every loss with all switches on at one, and the single token there."""
        sizes = {"float32": ((16, 16), (64, 64), (100, 100), (128, 128), (256, 64), (64, 256), (256, 256))}
        for element in ELEMENTS:
            for number, width in sizes.get(str(element).removeprefix("torch."), ((64, 64), (128, 128))):
                call = SlotCall(Slots.of(number, width, 1), element, "decode", (True, False, False))
                yield from self.entries(self.cut(call, 64, shared_limit))
        for option in LOSSES:
            call = SlotCall(Slots.of(64, 64, 1), torch.float32, option, (True, True, True))
            yield from self.entries(self.cut(call, 64, shared_limit))
            yield self.single(call)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        """See `hecate_lattice.trials`."""
        return trials(partial(LatticeKernels, source=self.kernels.source), thorough)


class LatticeOnHost(LatticeKernels):
    """The pair `lattice` on the CPU: the kernels themselves, on fibers."""

    def __init__(self) -> None:
        super().__init__("host")


class LatticeOnGpu(LatticeKernels):
    """The pair `lattice` on an NVIDIA GPU, compiled at run time."""

    def __init__(self) -> None:
        super().__init__("nvrtc")
