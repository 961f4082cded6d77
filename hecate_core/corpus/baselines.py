"""What knowing nothing, the bytes' frequencies and the byte before are worth, in bits per byte."""

import math
from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from hecate_core.errors import DataError

BYTES = 256


@frozen
class Baselines:
    """Bits per byte on held-out passages; `counted` bytes were predicted, each passage's first is not."""

    uniform: float
    unigram: float
    bigram: float
    counted: int


def fit_baselines(train: bytes, heldout: Sequence[bytes]) -> Baselines:
    """Uniform, unigram and bigram models fitted on `train`, measured on `heldout`.

    Every byte of a passage but its first is predicted from bytes of the same passage, as a model
    that reads passages one by one can. Unigram: add-one counts. Bigram: `(n(ab) + s p(b)) / (n(a) + s)`
    with the s that predicts `train` best when each of its pairs is left out once. Raises DataError
    when either text offers no pair of bytes.
    """
    pairs = _pairs([train])
    asked = _pairs(heldout)
    if not len(pairs) or not len(asked):
        raise DataError("baselines: no two neighbouring bytes; expected longer training and held-out text")
    counts = torch.bincount(pairs, minlength=BYTES * BYTES).double().view(BYTES, BYTES)
    frequency = torch.bincount(_tokens(train), minlength=BYTES).double() + 1
    unigram = frequency / frequency.sum()
    strength = min((2.0**power for power in range(-6, 12)), key=lambda s: _left_out_bits(counts, unigram, s))
    bigram = (counts + strength * unigram) / (counts.sum(1, keepdim=True) + strength)
    return Baselines(
        uniform=math.log2(BYTES),
        unigram=float(-unigram.log2()[asked % BYTES].mean()),
        bigram=float(-bigram.log2().view(-1)[asked].mean()),
        counted=len(asked),
    )


def _left_out_bits(counts: Tensor, unigram: Tensor, strength: float) -> float:
    """Bits of the training pairs, each predicted by the counts without itself."""
    others = (counts.sum(1, keepdim=True) - 1).clamp(min=0) + strength
    bits = -((counts - 1).clamp(min=0) + strength * unigram).div(others).log2()
    return float((counts * bits).sum())


def _pairs(texts: Sequence[bytes]) -> Tensor:
    """`256 a + b` for every pair of neighbouring bytes a, b inside one text."""
    codes = [tokens[:-1] * BYTES + tokens[1:] for tokens in map(_tokens, texts)]
    return torch.cat(codes) if codes else torch.empty(0, dtype=torch.int64)


def _tokens(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long() if text else torch.empty(0, dtype=torch.int64)
