"""The kernel pair of an op over a memory of slots: what all such pairs launch alike.

One block per row and head, the memory in its registers, or in a workspace where they do not hold it (`slots.py`). The
forward stores the memory at the start of every chunk, the backward goes through each chunk once more. A subclass says
what its own `.cu` is specialised by and carves.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from hecate_kernels.launch import LaunchedPair
from hecate_kernels.operands import ELEMENTS, accepted, or_nothing, plain, strides, unit_stride
from hecate_kernels.pair import Argument, Budget, Kernel, KernelPair, Out, constants
from hecate_kernels.slots import CHUNKS, MOST_FLOATS, Slots, carved_slots, launch_slots

TokensT = TypeVar("TokensT", bound=tuple[Any, ...])
WIDEST = 256  # entries, and slots
_SPILLS = "128 x 128 slots and their gradient take 128 registers of every thread, addresses and sums the rest"


def declared_slots(op: str, source: Path) -> KernelPair:
    """A pair whose entry points are `<op>_forward`, `<op>_backward` and `<op>_step`, the forward of a single token."""
    return KernelPair(
        op=op,
        source=source,
        forward=f"{op}_forward",
        backward=f"{op}_backward",
        head_sizes=(1, WIDEST),
        chunk=CHUNKS[0],
        budgets={
            f"{op}_forward": Budget(registers=255, shared_bytes=227 * 1024),
            f"{op}_backward": Budget(registers=255, shared_bytes=227 * 1024, spill_bytes=96, spill_reason=_SPILLS),
            f"{op}_step": Budget(registers=192, shared_bytes=48 * 1024),
        },
    )


class SlotCall(NamedTuple):
    """What a kernel is specialised by: sizes, dtype, option, and which of the two gates and `due` are given."""

    slots: Slots
    element: torch.dtype
    option: str
    given: tuple[bool, bool, bool]


class SlotKernels(LaunchedPair, ABC, Generic[TokensT]):
    """A sequence pair on kernels; `where` is a launcher or the name of a backend.

    Its tokens are a named tuple of three operands `[B, H, T, width]`, two gates `[B, H, T]` (None where the op does
    without one) and `due`.
    """

    tokens: ClassVar[type[Any]]
    most_floats: int = MOST_FLOATS  # of a memory in a thread's registers

    @classmethod
    @abstractmethod
    def sizes(cls, tokens: TokensT) -> tuple[int, int]:
        """How many slots the memory has, and entries a slot."""

    @classmethod
    @abstractmethod
    def switches(cls, call: SlotCall) -> dict[str, int]:
        """The op's own compile-time constants."""

    @classmethod
    @abstractmethod
    def floats(cls, call: SlotCall, backward: bool) -> list[int]:
        """Every piece of shared memory that the `.cu` carves, in floats."""

    @classmethod
    def answers(cls, call: SlotCall) -> int:
        """The width of a read."""
        return call.slots.width

    @classmethod
    @abstractmethod
    def kept(cls, call: SlotCall) -> int:
        """Floats that the backward keeps of a token beside the memory, in each thread."""

    def forward(self, tokens: TokensT, state: Tensor, option: str) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """See `hecate_core.api.SequencePair`; saves the first memory and those at the start of later chunks."""
        tokens, memory = self._accepted(tokens), state.float().contiguous()
        call = self._call(tokens, option)
        batch, heads, length = tokens[0].shape[:3]
        later = -(-length // call.slots.chunk) - 1
        y, end = tokens[0].new_empty(batch, heads, length, self.answers(call)), torch.empty_like(memory)
        starts = memory.new_empty(batch * heads, later + call.slots.far, call.slots.held)
        inputs = [*tokens[:3], *strides(*tokens[:3]), *_gates(tokens, memory), memory]
        symbol = self._step if length == 1 else self.kernels.forward
        self._launch(call, symbol, [*inputs, *map(Out, (y, end, starts))], y)
        return y, end, (memory, starts)

    def backward(
        self, tokens: TokensT, saved: tuple[Tensor, ...], option: str, d_out: Tensor, d_end: Tensor
    ) -> tuple[TokensT, Tensor]:
        """See `hecate_core.api.SequencePair`."""
        tokens, (memory, starts) = self._accepted(tokens), saved
        call = self._call(tokens, option)
        d_out = unit_stride(d_out.to(tokens[0].dtype))
        d_operands = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in tokens[:3]]
        d_gates = [torch.empty_like(one) for one in _gates(tokens, memory)[:2]]
        d_memory = torch.empty_like(memory)
        per_token = call.slots.held + self.kept(call) * call.slots.threads
        again = call.slots.chunk * per_token + 2 * call.slots.far * call.slots.held
        space = memory.new_empty(memory.shape[0] * memory.shape[1], again)
        inputs = [*tokens[:3], d_out, *strides(*tokens[:3], d_out), *_gates(tokens, memory), memory, starts]
        outputs = map(Out, (*d_operands, *d_gates, d_memory, space))
        self._launch(call, self.kernels.backward, [*inputs, d_end.float().contiguous(), *outputs], d_out)
        by_gates = [None if gate is None else one for gate, one in zip(tokens[3:5], d_gates, strict=True)]
        return self._made(*d_operands, *by_gates, None), d_memory

    def kernel(self, call: SlotCall, symbol: str) -> Kernel:
        """An entry point specialised for a call."""
        forward = symbol != self.kernels.backward
        shared = carved_slots(self.floats(call, backward=not forward))
        return _kernel(self.switches, call, symbol, self.kernels.source, forward, shared)

    def entries(self, call: SlotCall) -> Iterator[Kernel]:
        """Forward and backward specialised for a call."""
        for symbol in self.kernels.symbols:
            yield self.kernel(call, symbol)

    def single(self, call: SlotCall) -> Kernel:
        """The forward of a single token, otherwise as in a call."""
        return self.kernel(call._replace(slots=call.slots._replace(chunk=1)), self._step)

    def cut(self, call: SlotCall, length: int, limit: int) -> SlotCall:
        """The call with chunks as long as `limit` bytes of shared memory allow, forward and backward alike."""
        return _cut(self.kernels.op, self.floats, call, (1,) if length == 1 else CHUNKS, limit)

    @property
    def _step(self) -> str:
        return f"{self.kernels.op}_step"

    def _call(self, tokens: TokensT, option: str) -> SlotCall:
        first, second, due = (one is not None for one in tokens[3:])
        number, width = map(int, self.sizes(tokens))
        slots = Slots.of(number, width, 1, self.most_floats)
        call = SlotCall(slots, tokens[0].dtype, option, (first, second, due))
        return self.cut(call, tokens[0].shape[2], self._where.shared_limit(tokens[0]))

    def _accepted(self, tokens: TokensT) -> TokensT:
        """Tokens as the kernels read them; InputError with the limits for what they cannot take."""
        return self._made(*accepted(self.kernels.op, tokens[:3], WIDEST), *(plain(one) for one in tokens[3:]))

    def _made(self, *parts: Any) -> TokensT:
        made: TokensT = self.tokens(*parts)
        return made

    def _launch(self, call: SlotCall, symbol: str, arguments: list[Argument], like: Tensor) -> None:
        shared = carved_slots(self.floats(call, backward=symbol == self.kernels.backward))
        launch_slots(self._where, partial(self.kernel, call, symbol), call.slots, arguments, like, shared)


@lru_cache(maxsize=1024)
def _cut(
    op: str, floats: Callable[[SlotCall, bool], list[int]], call: SlotCall, chunks: tuple[int, ...], limit: int
) -> SlotCall:
    def needs(slots: Slots) -> int:
        return max(carved_slots(floats(call._replace(slots=slots), backward)) for backward in (False, True))

    spreads = (call.slots._replace(chunk=one) for one in chunks)
    return call._replace(slots=Slots.fitting(op, spreads, needs, limit))


@lru_cache(maxsize=1024)
def _kernel(
    switches: Callable[[SlotCall], dict[str, int]],
    call: SlotCall,
    symbol: str,
    source: Path,
    forward: bool,
    shared: int,
) -> Kernel:
    given = constants(
        **call.slots.constants(),
        **switches(call),
        ELEMENT=ELEMENTS[call.element],
        FORWARD=int(forward),
        STEP=int(symbol.endswith("_step")),
    )
    return Kernel(source, symbol, given, shared)


def _gates(tokens: Any, like: Tensor) -> list[Tensor]:
    """Gates and `due`, or what stands for them."""
    return [or_nothing(one, like) for one in tokens[3:]]
