"""ContextStream: what is read, where it stands, and that it can be continued exactly."""

import gc
import json
import os
import random
import resource
import threading
from typing import Any

import pytest
import torch

from hecate_core.errors import CheckpointError, DataError, InputError
from hecate_core.stream import Boundary, Chunk, ContextStream, Cursor, fnv1a

TEXT = bytes((i * i * 31 + i // 7) % 256 for i in range(997))


def expected(text: bytes, slots: int, slot: int, position: int) -> int:
    length = len(text) // slots
    return text[slot * length + position % length]


def check(chunk: Chunk, text: bytes, slots: int, first: int = 0) -> None:
    for row in range(chunk.input.shape[0]):
        for t in range(chunk.input.shape[1]):
            at = chunk.position + t
            assert chunk.input[row, t] == expected(text, slots, first + row, at)
            assert chunk.target[row, t] == expected(text, slots, first + row, at + 1)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [1, 7, 64, 500])
def test_chunks_are_full_and_targets_cross_their_border_and_the_wrap(batch: int, length: int) -> None:
    stream = ContextStream(TEXT, batch=batch, chunk_tokens=length)
    for number in range(4 + 2 * len(TEXT) // (batch * length) if length > 60 else 9):
        chunk = stream.next_chunk()
        assert chunk.input.shape == chunk.target.shape == chunk.opens.shape == (batch, length)
        assert (chunk.position, chunk.chunk_id) == (number * length, number)
        check(chunk, TEXT, batch)
    assert stream.position == stream.chunk_id * length
    assert stream.wraps == stream.position // (len(TEXT) // batch)


def test_the_way_a_text_is_cut_changes_no_token() -> None:
    whole = ContextStream(TEXT, batch=2, documents=(0, 100, 640)).next_chunk(1200)
    stream, chooser = ContextStream(TEXT, batch=2, documents=(0, 100, 640)), random.Random(1)
    parts = []
    while stream.position < 1200:
        parts.append(stream.next_chunk(min(chooser.randint(1, 90), 1200 - stream.position)))
    for name in ("input", "target", "opens"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts], 1), getattr(whole, name))


def test_readers_take_disjoint_slots_that_together_are_one_reader() -> None:
    whole = ContextStream(TEXT, batch=6, chunk_tokens=50)
    parts = [ContextStream(TEXT, batch=2, chunk_tokens=50, part=(i, 3)) for i in range(3)]
    for _ in range(5):
        joined = torch.cat([part.next_chunk().input for part in parts])
        assert torch.equal(joined, whole.next_chunk().input)


def test_openings_are_where_documents_and_slots_begin() -> None:
    stream = ContextStream(TEXT, batch=2, documents=(0, 100, 498, 640))  # slots of 498
    opens = stream.next_chunk(1000).opens
    assert opens[0].nonzero().flatten().tolist() == [0, 100, 498, 598, 996]
    assert opens[1].nonzero().flatten().tolist() == [0, 142, 498, 640, 996]


def test_boundaries_name_the_most_severe_thing_met() -> None:
    stream = ContextStream(TEXT[:100], chunk_tokens=10, documents=(0, 30, 47), sync_tokens=20)
    seen = [stream.next_chunk().boundary for _ in range(11)]
    wrap, end, sync, chunk = Boundary.WRAP, Boundary.DOCUMENT_END, Boundary.FREQUENCY_SYNC, Boundary.CHUNK
    #        10     20    30   40    50   60    70     80    90     100   110
    assert seen == [chunk, sync, end, sync, end, sync, chunk, sync, chunk, wrap, chunk]
    assert stream.next_chunk(3).boundary is None


def test_a_stream_that_ends_says_so_and_then_refuses() -> None:
    stream = ContextStream(TEXT[:25], chunk_tokens=10, wrap=False)
    assert stream.next_chunk().boundary is Boundary.CHUNK
    assert stream.next_chunk().boundary is Boundary.SESSION_END
    assert stream.remaining == 4
    with pytest.raises(DataError, match="4 tokens left, 10 asked for"):
        stream.next_chunk()
    last = stream.next_chunk(4)
    assert last.target[0, -1] == TEXT[24]
    assert stream.remaining == 0


def test_restored_at_a_hundred_random_positions_the_next_token_is_the_same() -> None:
    chooser = random.Random(7)
    for _ in range(100):
        batch = chooser.randint(1, 4)
        stream = ContextStream(TEXT, batch=batch)
        for _ in range(chooser.randint(0, 12)):
            stream.next_chunk(chooser.randint(1, 180))
        saved = json.loads(json.dumps(stream.cursor(pulse_id=5).as_dict()))
        again = ContextStream(TEXT, batch=batch)
        again.restore(saved, pulse_id=5)
        assert again.cursor(5) == stream.cursor(5)
        one, two = stream.next_chunk(31), again.next_chunk(31)
        assert torch.equal(one.input, two.input)
        assert torch.equal(one.target, two.target)
        assert (one.position, one.chunk_id, one.boundary) == (two.position, two.chunk_id, two.boundary)


def test_position_and_chunk_id_never_go_back() -> None:
    stream, before = ContextStream(TEXT[:40]), Cursor()
    for _ in range(60):
        stream.next_chunk(7)
        now = stream.cursor()
        assert now.position == before.position + 7
        assert now.chunk_id == before.chunk_id + 1
        assert now.wraps == now.position // 40
        before = now


def read(stream: ContextStream) -> Cursor:
    for _ in range(3):
        stream.next_chunk(20)
    return stream.cursor(pulse_id=3)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"position": -1}, "cursor.position"),
    ({"position": 59}, "not those that were read"),
    ({"position": 60.0}, "cursor.position"),
    ({"position": True}, "cursor.position"),
    ({"position": 0}, "contradict"),
    ({"position": 10**18}, "cursor"),
    ({"wraps": 1}, "not those that were read"),
    ({"chunk_id": 0}, "contradict"),
    ({"chunk_id": 61}, "one token per chunk"),
    ({"chunk_tokens": 61}, "one token per chunk"),
    ({"chunk_tokens": 10**12, "position": 10**13, "wraps": 10**13 // 997}, "not those that were read"),
    ({"content": 1}, "not those that were read"),
    ({"content": 0}, "not those that were read"),
    ({"position": 0, "chunk_id": 0, "chunk_tokens": 0}, "contradict"),
    ({"pulse_id": 4}, "the conductor's step"),
    ({"dataset": {}}, "cursor.dataset.sha256"),
    ({"dataset": []}, "cursor.dataset"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_cursor_that_does_not_fit_is_refused_and_moves_nothing(change: dict[str, Any], message: str) -> None:
    cursor = read(ContextStream(TEXT)).as_dict()
    stream = ContextStream(TEXT)
    stream.next_chunk(9)
    before = stream.cursor()
    with pytest.raises(CheckpointError, match=message) as caught:
        stream.restore({**cursor, **change}, pulse_id=3)
    assert "\n" not in str(caught.value)
    assert stream.cursor() == before


def test_a_missing_cursor_is_an_error_unless_a_warm_start_is_asked_for() -> None:
    stream = ContextStream(TEXT)
    with pytest.raises(CheckpointError, match="warm start"):
        stream.restore(None)
    wrong: list[Any] = [{}, [], "cursor", {**read(stream).as_dict(), "extra": 1}]
    for malformed in wrong:
        with pytest.raises(CheckpointError, match="expected exactly"):
            stream.restore(malformed)
    stream.warm_start()
    assert stream.cursor().position == 0


@pytest.mark.parametrize(
    "other",
    [
        ContextStream(TEXT[:-1] + b"!"),
        ContextStream(TEXT[:-1]),  # truncated meanwhile
        ContextStream(TEXT, batch=2),
        ContextStream(TEXT, part=(0, 2)),
        ContextStream(TEXT, wrap=False),
    ],
)
def test_another_text_or_another_division_is_refused(other: ContextStream) -> None:
    with pytest.raises(CheckpointError, match=r"cursor\.dataset"):
        other.restore(read(ContextStream(TEXT)))


def test_texts_too_short_and_wrong_settings_are_refused() -> None:
    with pytest.raises(DataError, match="stream: 5 bytes for 3 slots; expected at least 6"):
        ContextStream(b"abcde", batch=3)
    with pytest.raises(DataError, match="stream: 0 bytes"):
        ContextStream(b"")
    settings: list[dict[str, Any]] = [
        {"batch": 0},
        {"chunk_tokens": 0},
        *[{"part": p} for p in ((0, 0), (2, 2), (-1, 2))],
    ]
    for wrong in settings:
        with pytest.raises(InputError, match="stream"):
            ContextStream(TEXT, **wrong)
    with pytest.raises(InputError, match="chunk of 0 tokens"):
        ContextStream(TEXT).next_chunk(0)


def test_nul_bytes_and_a_line_of_ten_megabytes_are_tokens_like_any_other() -> None:
    text = b"\0" * 5 + b"x" * (10 << 20) + b"\0"
    stream = ContextStream(text, batch=2, chunk_tokens=1000)
    assert stream.next_chunk().input[0, :6].tolist() == [0, 0, 0, 0, 0, 120]
    assert stream.cursor().position == 1000


def test_the_hash_is_fnv1a() -> None:
    assert fnv1a(b"") == 0x811C9DC5
    assert fnv1a(b"foobar") == 0xBF9CF968  # published test vector


@pytest.mark.soak
def test_a_million_streamed_tokens_leave_memory_files_and_threads_flat() -> None:
    stream = ContextStream(TEXT * 50, batch=4, chunk_tokens=64, documents=range(0, 40_000, 500))

    def peak() -> tuple[int, int, int, int]:
        gc.collect()
        return (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            len(gc.get_objects()),
        )

    for _ in range(200):
        stream.next_chunk()
    before = peak()
    while stream.position < 1_000_000:
        stream.next_chunk()
    after = peak()
    assert after[0] - before[0] < 4096  # KiB
    assert after[1:3] == before[1:3]
    assert abs(after[3] - before[3]) < 50
