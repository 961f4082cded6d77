"""ContextStream: one endless text per batch slot, read in full chunks, with a cursor that verifies.

No epochs, no shuffling, no pairs made in advance. Slots are disjoint equal parts of the text; a
slot that reaches its end goes on at its beginning and the position keeps counting.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from attrs import asdict, field, fields, frozen
from torch import Tensor

from hecate_core.errors import CheckpointError, DataError, InputError
from hecate_core.shapes import Bool, Int


class Boundary(Enum):
    """What stands at the end of a chunk, or inside it; of several, the first in this order.

    * `WRAP`           - a slot went on at its beginning;
    * `SESSION_END`    - a stream that does not wrap has no full chunk left;
    * `DOCUMENT_END`   - a document ended in some slot;
    * `FREQUENCY_SYNC` - the position is a multiple of `sync_tokens`: every level is at a border;
    * `CHUNK`          - the position is a multiple of the chunk.
    """

    WRAP = "wrap"
    SESSION_END = "session_end"
    DOCUMENT_END = "document_end"
    FREQUENCY_SYNC = "frequency_sync"
    CHUNK = "chunk"


@frozen(eq=False)
class Chunk:
    """`length` tokens of every slot, from stream position `position` on.

    * `input`  - `[B, T]` int64, bytes;
    * `target` - `[B, T]` int64, the token after each, also across the chunk's border;
    * `opens`  - `[B, T]` bool, whether the token opens a document, the text included;
    * `chunk_id` counts chunks from 0 and never goes back.
    """

    input: Int[Tensor, "B T"]
    target: Int[Tensor, "B T"]
    opens: Bool[Tensor, "B T"]
    position: int
    chunk_id: int
    boundary: Boundary | None


@frozen
class Cursor:
    """Where a stream stands: plain values for a manifest.

    `position` and `chunk_id` never go back; `wraps` counts how often each slot began again.
    `content` is the FNV-1a hash (32 bits) of the last chunk's tokens, 0 before the first; `pulse_id`
    is the optimizer step it was taken at.
    """

    position: int = 0
    chunk_id: int = 0
    wraps: int = 0
    chunk_tokens: int = 0
    content: int = 0
    pulse_id: int = 0
    dataset: Mapping[str, Any] = field(factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self)

    @staticmethod
    def of(values: object) -> "Cursor":
        """The cursor of `as_dict()`; raises CheckpointError for anything else."""
        names = [attribute.name for attribute in fields(Cursor)]
        if not isinstance(values, Mapping) or set(values) != set(names):
            raise CheckpointError(f"cursor: expected exactly {', '.join(names)}")
        for name in names[:-1]:
            value = values[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise CheckpointError(f"cursor.{name} = {value!r}; expected an integer >= 0")
        if not isinstance(values["dataset"], Mapping):
            raise CheckpointError("cursor.dataset: expected the identity of a text")
        return Cursor(**{**values, "dataset": dict(values["dataset"])})


class ContextStream:
    """Bytes as `batch` parallel streams; slot b reads its own `len(text) // batch` bytes, in a circle.

    `documents` are offsets in `text` where a document begins. `part = (i, n)` gives the i-th of n
    readers (ranks) its own slots: n readers of batch B read what one of batch n B reads. With
    `wrap=False` every slot ends after its last token that has a successor. Raises DataError when a
    slot would hold fewer than two tokens.
    """

    def __init__(
        self,
        text: bytes,
        *,
        batch: int = 1,
        chunk_tokens: int = 256,
        documents: Sequence[int] = (0,),
        part: tuple[int, int] = (0, 1),
        sync_tokens: int = 0,
        wrap: bool = True,
    ) -> None:
        for name, value in (("batch", batch), ("chunk_tokens", chunk_tokens), ("part", part[1])):
            if isinstance(value, bool) or value < 1:
                raise InputError(f"stream.{name} = {value!r}; expected an integer >= 1")
        if not 0 <= part[0] < part[1]:
            raise InputError(f"stream.part = {part}; expected (i, n) with 0 <= i < n")
        self.slot_tokens = len(text) // (batch * part[1])
        if self.slot_tokens < 2:
            slots = batch * part[1]
            raise DataError(f"stream: {len(text)} bytes for {slots} slots; expected at least {2 * slots}")
        first = part[0] * batch * self.slot_tokens
        mine = bytearray(memoryview(text)[first : first + batch * self.slot_tokens])
        self.batch, self.chunk_tokens, self.sync_tokens, self.wrap = batch, chunk_tokens, sync_tokens, wrap
        self.dataset = {
            "sha256": hashlib.sha256(text).hexdigest(),
            "bytes": len(text),
            "batch": batch,
            "part": list(part),
            "wrap": wrap,
        }
        self._tokens = torch.frombuffer(mine, dtype=torch.uint8).view(batch, self.slot_tokens)
        self._opens = self._openings(documents, first)
        self.position, self.chunk_id, self._last = 0, 0, 0

    def _openings(self, documents: Sequence[int], first: int) -> list[int]:
        """Offsets inside the slots, of all slots together, where a document or the slot begins; sorted."""
        last = first + self.batch * self.slot_tokens
        inside = {(start - first) for start in documents if first <= start < last}
        return sorted(inside | {slot * self.slot_tokens for slot in range(self.batch)})

    @property
    def wraps(self) -> int:
        """How often every slot has begun again."""
        return self.position // self.slot_tokens

    @property
    def remaining(self) -> int | None:
        """Tokens left in every slot of a stream that does not wrap; None for one that does."""
        return None if self.wrap else self.slot_tokens - 1 - self.position

    def next_chunk(self, length: int | None = None) -> Chunk:
        """The next `length` tokens (`chunk_tokens` by default) of every slot, always all of them.

        Raises DataError when a stream that does not wrap has fewer left; see `remaining`.
        """
        length = self.chunk_tokens if length is None else length
        if isinstance(length, bool) or length < 1:
            raise InputError(f"stream: chunk of {length!r} tokens; expected an integer >= 1")
        if self.remaining is not None and length > self.remaining:
            raise DataError(f"stream: {self.remaining} tokens left, {length} asked for; expected a stream that wraps")
        position, chunk_id = self.position, self.chunk_id
        tokens = self._read(position, length + 1)
        self.position, self.chunk_id, self._last = position + length, chunk_id + 1, length
        return Chunk(
            tokens[:, :-1], tokens[:, 1:], self._opening(position, length), position, chunk_id, self._boundary(position)
        )

    def _read(self, position: int, length: int) -> Tensor:
        """`[B, length]` int64 from `position` on, around the end as often as needed."""
        start = position % self.slot_tokens
        if start + length <= self.slot_tokens:
            return self._tokens[:, start : start + length].long()
        at = torch.arange(start, start + length) % self.slot_tokens
        return self._tokens[:, at].long()

    def _places(self, position: int, length: int) -> list[tuple[int, int]]:
        """(slot, offset in the chunk) of every token that opens a document, in `length` tokens from `position`."""
        found, done = [], 0
        while done < length:
            start = (position + done) % self.slot_tokens
            take = min(length - done, self.slot_tokens - start)
            for slot in range(self.batch):
                base = slot * self.slot_tokens + start
                low, high = bisect_left(self._opens, base), bisect_left(self._opens, base + take)
                found += [(slot, place - base + done) for place in self._opens[low:high]]
            done += take
        return found

    def _opening(self, position: int, length: int) -> Tensor:
        opens = torch.zeros(self.batch, length, dtype=torch.bool)
        for slot, offset in self._places(position, length):
            opens[slot, offset] = True
        return opens

    def _boundary(self, start: int) -> Boundary | None:
        """What the chunk from `start` up to the current position meets; its own first token's opening is the
        boundary of the chunk before."""
        if self.position // self.slot_tokens > start // self.slot_tokens:
            return Boundary.WRAP
        if self.remaining is not None and self.remaining < self.chunk_tokens:
            return Boundary.SESSION_END
        if self._places(start + 1, self.position - start):
            return Boundary.DOCUMENT_END
        if self.sync_tokens and self.position % self.sync_tokens == 0:
            return Boundary.FREQUENCY_SYNC
        return Boundary.CHUNK if self.position % self.chunk_tokens == 0 else None

    def cursor(self, pulse_id: int = 0) -> Cursor:
        """Where the stream stands after the last chunk; `pulse_id` is the conductor's step."""
        return Cursor(
            self.position, self.chunk_id, self.wraps, self._last, self._content(self._last), pulse_id, self.dataset
        )

    def _content(self, length: int) -> int:
        length = min(length, self.slot_tokens)  # a longer chunk repeats the slot; a forged one must not cost memory
        if length == 0:
            return 0
        return fnv1a(bytes(self._read(self.position - length, length).flatten().tolist()))

    def restore(self, cursor: Cursor | Mapping[str, Any] | None, pulse_id: int | None = None) -> None:
        """Go on exactly where `cursor` was taken; the next chunk is the one that followed it.

        `pulse_id` is the step the run resumes at. Raises CheckpointError, and leaves the stream as
        it was, for no cursor, for one of another text, batch or part, for one taken at another step,
        and where the text before the position is not the text that was read.
        """
        if cursor is None:
            raise CheckpointError("cursor: there is none; expected one, or a warm start by name (`warm_start`)")
        cursor = cursor if isinstance(cursor, Cursor) else Cursor.of(cursor)
        for name, value in self.dataset.items():
            if cursor.dataset.get(name) != value:
                raise CheckpointError(
                    f"cursor.dataset.{name} = {cursor.dataset.get(name)!r}; the text at hand has {value!r}"
                )
        if pulse_id is not None and cursor.pulse_id != pulse_id:
            raise CheckpointError(f"cursor.pulse_id = {cursor.pulse_id}; expected {pulse_id}, the conductor's step")
        self._refuse_impossible(cursor)
        before = self.position
        self.position = cursor.position
        if self.wraps != cursor.wraps or self._content(cursor.chunk_tokens) != cursor.content:
            self.position = before
            raise CheckpointError(
                f"cursor: the {cursor.chunk_tokens} tokens before position {cursor.position} are not those "
                "that were read; expected the same text"
            )
        self.chunk_id, self._last = cursor.chunk_id, cursor.chunk_tokens

    def _refuse_impossible(self, cursor: Cursor) -> None:
        started = (cursor.position > 0, cursor.chunk_id > 0, cursor.chunk_tokens > 0)
        if any(started) != all(started) or (cursor.content and not any(started)):
            raise CheckpointError("cursor: position, chunk_id, chunk_tokens and content contradict each other")
        if cursor.chunk_tokens > cursor.position or cursor.chunk_id > cursor.position:
            raise CheckpointError(f"cursor.position = {cursor.position}; expected at least one token per chunk read")
        if not self.wrap and cursor.position >= self.slot_tokens:
            raise CheckpointError(f"cursor.position = {cursor.position}; a slot ends at {self.slot_tokens - 1}")

    def warm_start(self) -> None:
        """Begin this text at position 0 on purpose, where a run continues without a cursor."""
        self.position, self.chunk_id, self._last = 0, 0, 0


def fnv1a(content: bytes) -> int:
    """The 32-bit FNV-1a hash of some bytes."""
    value = 0x811C9DC5
    for byte in content:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value
