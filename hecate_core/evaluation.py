"""Bits per byte on passages that the model has never seen, each read alone from a fresh memory."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from hecate_core.errors import DataError
from hecate_core.model import LanguageModel

BATCH = 16  # passages at once, of neighbouring lengths so that little is padded


@torch.inference_mode()
def bits_per_byte(model: LanguageModel, passages: Sequence[bytes], *, remember: bool = True) -> float:
    """Mean bits for every byte but the first of each passage; `remember=False` masks all writes.

    Padding stands after a passage's last byte, where nothing that is counted can see it. Raises DataError when no
    passage has two bytes.
    """
    device = model.head.weight.device
    ordered = sorted((passage for passage in passages if len(passage) > 1), key=len)
    if not ordered:
        raise DataError("evaluation: no passage of two bytes or more; expected held-out text")
    total, counted = 0.0, 0
    for start in range(0, len(ordered), BATCH):
        rows = ordered[start : start + BATCH]
        longest = len(rows[-1])
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        for row, passage in enumerate(rows):
            ids[row, : len(passage)] = torch.frombuffer(bytearray(passage), dtype=torch.uint8)
        ids = ids.to(device)
        lengths = torch.tensor([len(passage) for passage in rows], device=device)
        write = torch.full(ids[:, :-1].shape, remember, device=device)
        logits, _ = model(ids[:, :-1], model.init_state(len(rows)), write if not remember else None)
        counts = torch.arange(longest - 1, device=device) < (lengths - 1).unsqueeze(1)
        nats = F.cross_entropy(logits.double().transpose(1, 2), ids[:, 1:], reduction="none")
        total += float(nats[counts].sum())
        counted += int(counts.sum())
    return total / counted / math.log(2.0)
