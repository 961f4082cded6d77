"""Passages of a text, and which of them another text has already shown.

A passage is the text between blank lines (a blank line may hold spaces). Two texts share a passage's
window when 64 consecutive bytes inside the passage occur in the other; a shorter passage counts as
one window.
"""

import re

import torch
from torch import Tensor

WINDOW = 64  # bytes
_BLANK = re.compile(rb"\n(?:[ \t\r]*\n)+")
_BASE = 0x9E3779B97F4A7C15 - (1 << 64)  # an odd 64-bit multiplier, as int64
_BLOCK = 1 << 22  # bytes hashed at once: about 100 MB of scratch


def passages(text: bytes) -> list[bytes]:
    """The passages of a text in order, without the blank lines around them; empty ones are left out."""
    return [part for part in (piece.strip(b"\n") for piece in _BLANK.split(text)) if part.strip()]


def unseen(candidates: list[bytes], seen: bytes) -> list[bytes]:
    """The candidates that share no window with `seen`, in order.

    Windows are compared by a 64-bit polynomial hash: equal windows have equal hashes, so none
    slips through; a collision could only drop a passage too many.
    """
    short = [passage for passage in candidates if len(passage) < WINDOW and passage not in seen]
    hashes = [_window_hashes(passage) for passage in candidates]
    known = torch.cat(hashes).unique() if hashes else torch.empty(0, dtype=torch.int64)
    hit = torch.zeros(len(known), dtype=torch.bool)
    for start in range(0, len(seen), _BLOCK):
        block = _window_hashes(seen[start : start + _BLOCK + WINDOW - 1])
        at = torch.searchsorted(known, block).clamp_(max=max(0, len(known) - 1))
        if len(known):
            hit[at[known[at] == block]] = True
    shared = known[hit]
    kept = set(short)
    return [
        passage
        for passage, own in zip(candidates, hashes, strict=True)
        if passage in kept or (len(passage) >= WINDOW and not bool(torch.isin(own, shared).any()))
    ]


def _window_hashes(text: bytes) -> Tensor:
    """One int64 hash per window of 64 bytes, arithmetic modulo 2**64; by doubling: 1, 2, 4 .. 64 bytes."""
    if len(text) < WINDOW:
        return torch.empty(0, dtype=torch.int64)
    hashes = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(torch.int64) + 1
    factor, width = torch.tensor(_BASE, dtype=torch.int64), 1
    while width < WINDOW:
        hashes = hashes[:-width] * factor + hashes[width:]
        factor, width = factor * factor, 2 * width
    return hashes
