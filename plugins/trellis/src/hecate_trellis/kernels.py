"""The kernel pair of the op `trellis`: one block per head, the store in its registers.

With an elementwise map and slots that answer, warps do not wait for each other inside a chunk.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from hecate_kernels.operands import ELEMENTS
from hecate_kernels.pair import Kernel, Trial
from hecate_kernels.slot_pair import SlotCall, SlotKernels, declared_slots
from hecate_kernels.slots import Slots

from hecate_trellis.maps import MAPS
from hecate_trellis.op import SIDES, TrellisTokens, option_of, options_in
from hecate_trellis.trials import trials


class TrellisKernels(SlotKernels[TrellisTokens]):
    """The op on kernels; `where` is a launcher or the name of a backend."""

    op = "trellis"
    declared = declared_slots("trellis", Path(__file__).with_name("trellis.cu"))
    tokens = TrellisTokens

    @classmethod
    def sizes(cls, tokens: TrellisTokens) -> tuple[int, int]:
        """See `SlotKernels`."""
        return tokens.code.shape[-1], tokens.w.shape[-1]

    @classmethod
    def switches(cls, call: SlotCall) -> dict[str, int]:
        """See `SlotKernels`."""
        phi, turned = options_in(call.option)
        return {"PHI": list(MAPS).index(phi), "ENTRIES": int(turned), "MASKED": int(call.given[2])}

    @classmethod
    def floats(cls, call: SlotCall, backward: bool) -> list[int]:
        """See `SlotKernels`; repeats the carvings of trellis.cu."""
        s = call.slots
        phi, turned = options_in(call.option)
        all_slots = s.number if MAPS[phi].whole else 0
        texts = [s.chunk * one for one in (s.number if turned else s.wide, s.wide, s.number, 3)]
        if backward:
            shares = 2 * (1 if turned else 2) * s.warps * s.wide
            answers = s.chunk * (s.wide if turned else s.number)
            return [*texts, answers, shares, 4 * s.warps, 4 * all_slots + 1, s.warps * 2 * s.per_warp]
        shares = 2 * s.warps * s.wide if turned else 0
        return [*texts, shares + 1, 2 * all_slots + 1, s.warps * s.per_warp]

    @classmethod
    def answers(cls, call: SlotCall) -> int:
        """See `SlotKernels`."""
        return call.slots.width if options_in(call.option)[1] else call.slots.number

    @classmethod
    def kept(cls, call: SlotCall) -> int:
        """See `SlotKernels`."""
        return 2

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """Keys and values under the default map at all sizes, every map and the single token at one."""
        sizes = {"float32": ((16, 16), (100, 100), (128, 128), (256, 64), (64, 256), (256, 256))}
        for element in ELEMENTS:
            for number, width in sizes.get(str(element).removeprefix("torch."), ((64, 64), (128, 128))):
                for side in SIDES:
                    call = SlotCall(Slots.of(number, width, 1), element, option_of("silu", side), (True, True, False))
                    yield from self.entries(self.cut(call, 64, shared_limit))
        for phi, side in zip(MAPS, SIDES * len(MAPS), strict=False):
            call = SlotCall(Slots.of(64, 64, 1), torch.float32, option_of(phi, side), (True, True, True))
            yield from self.entries(self.cut(call, 64, shared_limit))
            yield self.single(call)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        """See `hecate_trellis.trials`."""
        return trials(partial(TrellisKernels, source=self.kernels.source), thorough)


class TrellisOnHost(TrellisKernels):
    """The pair `trellis` on the CPU: the kernels themselves, on fibers."""

    def __init__(self) -> None:
        super().__init__("host")


class TrellisOnGpu(TrellisKernels):
    """The pair `trellis` on an NVIDIA GPU, compiled at run time."""

    def __init__(self) -> None:
        super().__init__("nvrtc")
