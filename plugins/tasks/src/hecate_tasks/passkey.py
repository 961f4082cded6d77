"""Passkey: digits said once at some depth of a filler text, asked for at its end.

Spec: specs/tasks/passkey.md.
"""

import torch

from hecate_core.api import InputError, Sample, Tensor

FILLER = b"the grass is green and the sky is blue and here we go there and back again "
BEFORE, AFTER, ASK = b" the key is ", b" keep it. ", b" what is the key? the key is "


class Passkey:
    """Bytes: filler with one needle `the key is D` at a uniform depth, then the question; the digits D count.

    Ids are bytes, so a model built on text can be asked too. Source: [2305.16300] Sec. 4.3 (passkey retrieval).
    """

    name = "passkey"
    spec = "tasks/passkey.md"
    vocab = 256
    chance = 0.1

    def __init__(self, *, tokens: int = 256, digits: int = 4) -> None:
        fixed = len(BEFORE) + len(AFTER) + len(ASK) + 2 * digits
        if digits < 1 or tokens < fixed:
            raise InputError(f"passkey: tokens {tokens}, digits {digits}; expected digits >= 1, tokens >= {fixed}")
        self.tokens, self._digits, self._filler = tokens, digits, tokens + 1 - fixed

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """See `Task.sample`."""
        depths = torch.randint(self._filler + 1, (count,), generator=random).tolist()
        keys = torch.randint(10, (count, self._digits), generator=random) + ord("0")
        rows = torch.stack([self._text(depth, key) for depth, key in zip(depths, keys, strict=True)])
        targets = torch.full((count, self.tokens), -1)
        targets[:, -self._digits :] = rows[:, -self._digits :]
        return Sample(rows[:, :-1].clone(), targets)

    def _text(self, depth: int, key: Tensor) -> Tensor:
        """`[tokens + 1]` bytes with the needle after `depth` bytes of filler."""
        said = bytes(key.tolist())
        filler = (FILLER * (self._filler // len(FILLER) + 1))[: self._filler]
        text = filler[:depth] + BEFORE + said + AFTER + filler[depth:] + ASK + said
        return torch.tensor(list(text))
