"""Event files: the checksum of the standard, every number read back, and a run that writes them."""

import struct
from pathlib import Path
from typing import Any

import pytest
from hecate_tensorboard.events import crc32c, framed, masked, scalars_event, version_event
from hecate_tensorboard.sink import TensorBoard

from hecate_core.building import build
from hecate_core.errors import HecateError
from hecate_core.files import read_json_lines


def records(data: bytes) -> list[bytes]:
    """The events of a file; both checksums of each are held against the bytes."""
    found, at = [], 0
    while at < len(data):
        (length,), (head,) = struct.unpack_from("<Q", data, at), struct.unpack_from("<I", data, at + 8)
        assert head == masked(data[at : at + 8])
        event = data[at + 12 : at + 12 + length]
        (tail,) = struct.unpack_from("<I", data, at + 12 + length)
        assert tail == masked(event)
        found.append(event)
        at += 16 + length
    return found


def fields(message: bytes) -> list[tuple[int, Any]]:
    """Number and value of every protobuf field."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        kind = key & 7
        value: Any
        if kind == 0:
            value = varint()
        elif kind == 1:
            (value,) = struct.unpack_from("<d", message, at)
            at += 8
        elif kind == 5:
            (value,) = struct.unpack_from("<f", message, at)
            at += 4
        else:
            size = varint()
            value, at = message[at : at + size], at + size
        found.append((key >> 3, value))
    return found


def scalars(event: bytes) -> tuple[int, dict[str, float]]:
    """Step and scalars of an event."""
    whole = dict(fields(event))
    values = [dict(fields(one)) for _, one in fields(whole[5])]
    return whole[2], {one[1].decode(): one[2] for one in values}


def test_the_checksum_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


def test_an_event_is_read_back() -> None:
    (version,) = records(version_event(2.5))
    assert fields(version) == [(1, 2.5), (3, b"brain.Event:2")]
    (event,) = records(scalars_event(3.5, 300, {"loss": 0.25, "lr": 2.0**-9}))
    assert dict(fields(event))[1] == 3.5
    assert scalars(event) == (300, {"loss": 0.25, "lr": 2.0**-9})
    with pytest.raises(AssertionError):
        records(framed(b"abc")[:-1] + b"\0")


def test_a_run_writes_every_number_of_every_record(tmp_path: Path) -> None:
    table = {
        "data": {"task": {"name": "parity", "tokens": 6}, "batch": 2},
        "model": {"vocab": 2, "width": 8, "depth": 1, "memory": {"chunk": 8}},
        "run": {"steps": 3, "eval_interval": 2, "checkpoint_interval": 0, "sinks": ["tensorboard"]},
    }
    build(table, tmp_path / "run")
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert file.name.startswith("events.out.tfevents.")
    events = [scalars(event) for event in records(file.read_bytes())[1:]]
    metrics, _ = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [step for step, _ in events] == [record["step"] for record in metrics] == [0, 1, 2, 3]
    for (_, found), record in zip(events, metrics, strict=True):
        prefix = "final/" if record.get("final") else ""
        for name in ("loss", "lr", "accuracy", "chance", "seconds"):
            if name in record:
                assert found[prefix + name] == pytest.approx(record[name], rel=1e-6)
    assert "accuracy" in events[1][1]
    assert "final/accuracy" in events[3][1]
    assert events[0][1]["tokens_per_second"] == pytest.approx(metrics[0]["tokens"] / metrics[0]["seconds"], rel=1e-6)


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    sink = TensorBoard()
    sink.begin(tmp_path, {})
    sink.write({"step": 1, "update": [True], "note": "x", "flag": True, "loss": float("inf")})
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert len(records(file.read_bytes())) == 1


def test_a_sink_that_nobody_provides_ends_the_run_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(HecateError, match='sink "tensorbord" is not installed; did you mean "tensorboard"'):
        build({"run": {"steps": 1, "sinks": ["tensorbord"]}}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
