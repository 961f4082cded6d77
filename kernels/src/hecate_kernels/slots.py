"""How a memory of slots is spread over a block: the sizes that hecate/slots.cuh is specialised by."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hecate_core.api import InputError, Tensor, is_shaping
from hecate_kernels.pair import Argument, Kernel, Launcher

MOST_FLOATS = 64  # of the memory in a thread's registers; the backward holds it and its gradient
CHUNKS = (32, 16, 8, 4)  # tokens staged at once, and between two stored states; best first


class Slots(NamedTuple):
    """A memory of `number` slots of `width` entries; a warp owns `per_warp` of them.

    `far` memories stand in global memory, as the registers of a block do not hold them and their gradient.
    """

    number: int
    width: int
    per_warp: int
    warps: int
    chunk: int
    far: bool

    @classmethod
    def of(cls, number: int, width: int, chunk: int, most: int = MOST_FLOATS) -> "Slots":
        """The spread for chunks of so many tokens: over eight warps; over sixteen where a thread had more than `most`
        of its numbers, and the memory is far."""
        whole = 1 << (number - 1).bit_length()
        per_warp = min(whole, max(4, whole // 8))
        made = cls(number, width, per_warp, whole // per_warp, chunk, far=False)
        if per_warp * made.deep <= most:
            return made
        halved = max(1, per_warp // 2)
        return made._replace(per_warp=halved, warps=whole // halved, far=True)

    @classmethod
    def fitting(cls, op: str, spreads: Iterable["Slots"], needs: Callable[["Slots"], int], limit: int) -> "Slots":
        """The first whose shared memory fits into `limit` bytes. Raises InputError where none does."""
        least = 0
        for made in spreads:
            least = needs(made)
            if least <= limit:
                return made
        raise InputError(
            f'op "{op}": {made.number} slots of {made.width} entries need {least} bytes of shared memory, this card '
            f'gives {limit}; use smaller heads or backend = "reference"'
        )

    @property
    def threads(self) -> int:
        """Of one block."""
        return 32 * self.warps

    @property
    def deep(self) -> int:
        """Entries of a slot per lane."""
        return -(-self.width // 32)

    @property
    def wide(self) -> int:
        """Entries of a slot, filled up to whole warps."""
        return 32 * self.deep

    @property
    def held(self) -> int:
        """Floats of the memory as threads hold it."""
        return self.per_warp * self.deep * self.threads

    def constants(self) -> dict[str, int]:
        """The compile-time constants of hecate/slots.cuh."""
        return {
            "SLOTS": self.number,
            "WIDTH": self.width,
            "PER_WARP": self.per_warp,
            "THREADS": self.threads,
            "CHUNK": self.chunk,
            "FAR": int(self.far),
        }


def carved_slots(floats: Iterable[int]) -> int:
    """Bytes of dynamic shared memory for so many floats each; pieces are rounded up to 128."""
    return sum(-(-count * 4 // 128) * 128 for count in floats)


def launch_slots(
    where: Launcher,
    kernel: Callable[[], Kernel],
    slots: Slots,
    arguments: Sequence[Argument],
    like: Tensor,
    shared: int,
) -> None:
    """One block for every row and head of `like` `[B, H, T, D]`; the kernel's last arguments are H and T.

    `shared` is the dynamic shared memory of a block in bytes. Under fakes sizes may be symbols, which specialise
    nothing: no kernel is made then.
    """
    if is_shaping():
        return
    batch, heads, length, _ = like.shape
    grid, block = (batch * heads, 1, 1), (slots.threads, 1, 1)
    where.launch(kernel(), grid, block, [*arguments, np.int32(heads), np.int32(length)], shared)
