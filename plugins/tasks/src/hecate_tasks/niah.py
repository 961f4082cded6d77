"""Needles in a haystack: several numbered words hidden in a filler text, one of them asked for at its end.

Spec: specs/tasks/niah.md.
"""

import torch

from hecate_core.api import InputError, Sample, Tensor
from hecate_tasks.passkey import FILLER

# Of one length, so that every context has the same number of tokens.
WORDS = tuple(
    b"amber basil cedar daisy ebony fable grape heron ivory jewel koala lemon maple north olive pearl".split()
)
NEEDLE, ASK = b" the number of %s is %s. ", b" what is the number of %s? the number of %s is %s"


class NeedlesInHaystack:
    """Bytes: filler with `needles` sentences `the number of WORD is D` at uniform depths, then a question about one.

    The other needles have the same form and another word, so the key must be matched and not merely found: with one
    needle this is a passkey with a name. The digits D count. Source: [2404.06654] Sec. 3.1 (multi-key retrieval).
    """

    name = "niah"
    spec = "tasks/niah.md"
    vocab = 256
    chance = 0.1

    def __init__(self, *, tokens: int = 512, needles: int = 4, digits: int = 4) -> None:
        if not 1 <= needles <= len(WORDS) or digits < 1:
            raise InputError(
                f"niah: needles {needles}, digits {digits}; expected needles in 1..{len(WORDS)}, digits >= 1"
            )
        blank, said = b" " * len(WORDS[0]), b"0" * digits
        fixed = needles * len(NEEDLE % (blank, said)) + len(ASK % (blank, blank, said))
        if tokens < fixed:
            raise InputError(
                f"niah: tokens {tokens}; expected at least {fixed} for {needles} needles of {digits} digits"
            )
        self.tokens, self._needles, self._digits, self._filler = tokens, needles, digits, tokens + 1 - fixed

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """See `Task.sample`; the word that is asked for is drawn uniformly among the needles."""
        words = torch.rand(count, len(WORDS), generator=random).argsort(1)[:, : self._needles]
        numbers = torch.randint(10, (count, self._needles, self._digits), generator=random) + ord("0")
        depths = torch.randint(self._filler + 1, (count, self._needles), generator=random).sort(1).values
        asked = torch.randint(self._needles, (count,), generator=random).tolist()
        rows = torch.stack([self._text(*row) for row in zip(words, numbers, depths, asked, strict=True)])
        targets = torch.full((count, self.tokens), -1)
        targets[:, -self._digits :] = rows[:, -self._digits :]
        return Sample(rows[:, :-1].clone(), targets)

    def _text(self, words: Tensor, numbers: Tensor, depths: Tensor, asked: int) -> Tensor:
        """`[tokens + 1]` bytes: every needle after its own number of bytes of filler, then the question and answer."""
        filler = (FILLER * (self._filler // len(FILLER) + 1))[: self._filler]
        named = [(WORDS[word], bytes(number)) for word, number in zip(words.tolist(), numbers.tolist(), strict=True)]
        text, at = b"", 0
        for needle, depth in zip(named, depths.tolist(), strict=True):
            text, at = text + filler[at:depth] + NEEDLE % needle, depth
        word, number = named[asked]
        return torch.tensor(list(text + filler[at:] + ASK % (word, word, number)))
