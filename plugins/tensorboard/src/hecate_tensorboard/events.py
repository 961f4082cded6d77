"""Event files: records of length, masked checksum, protobuf bytes, masked checksum.

Spec: specs/sinks/tensorboard.md, Eq. 1 to 4.
"""

import struct
from collections.abc import Mapping

VERSION = b"brain.Event:2"
POLYNOMIAL = 0x82F63B78  # CRC-32C, bits reversed


def version_event(wall_time: float) -> bytes:
    """The record every event file begins with."""
    return framed(_double(1, wall_time) + _bytes(3, VERSION))


def scalars_event(wall_time: float, step: int, scalars: Mapping[str, float]) -> bytes:
    """One record with a scalar per tag; values are rounded to float32, as the format has them."""
    values = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in scalars.items())
    return framed(_double(1, wall_time) + _integer(2, step) + _bytes(5, values))


def framed(event: bytes) -> bytes:
    """Spec Eq. 1: length, its checksum, the event, its checksum."""
    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", masked(length)) + event + struct.pack("<I", masked(event))


def masked(data: bytes) -> int:
    """Spec Eq. 2: the checksum rotated right by 15, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of the bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_entry, range(256)))


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)
