"""Copy: say again what was read, once at the end or all the time.

Specs: specs/tasks/copy.md, specs/tasks/recall.md.
"""

import torch

from hecate_core.api import InputError, Sample


class Copy:
    """`symbols` random ids, a separator, then the same ids again; each is to be predicted one token ahead.

    Source: [1410.5401] Sec. 4.1 (copy task), with symbols for bit vectors.
    """

    name = "copy"
    spec = "tasks/copy.md"

    def __init__(self, *, vocab: int = 17, symbols: int = 16) -> None:
        if vocab < 3 or symbols < 1:
            raise InputError(f"copy: vocab {vocab}, symbols {symbols}; expected vocab >= 3 and symbols >= 1")
        self.vocab, self._symbols, self.tokens = vocab, symbols, 2 * symbols
        self.chance = 1.0 / (vocab - 1)

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """See `Task.sample`; the last id of the vocabulary separates, the second half counts."""
        n = self._symbols
        word = torch.randint(self.vocab - 1, (count, n), generator=random)
        separator = torch.full((count, 1), self.vocab - 1)
        ids = torch.cat((word, separator, word[:, :-1]), 1)
        targets = torch.full_like(ids, -1)
        targets[:, n:] = word
        return Sample(ids, targets)


class RepeatedPattern:
    """A random pattern of distinct symbols, repeated to the end; every token after the first pass counts.

    derived: the shortest task that a window shorter than the pattern cannot solve; specs/tasks/recall.md.
    """

    name = "recall"
    spec = "tasks/recall.md"

    def __init__(self, *, vocab: int = 16, period: int = 8, tokens: int = 31) -> None:
        if not 1 <= period <= min(vocab, tokens):
            raise InputError(f"recall: vocab {vocab}, period {period}, tokens {tokens}; expected period <= both")
        self.vocab, self._period, self.tokens = vocab, period, tokens
        self.chance = 1.0 / vocab

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """See `Task.sample`."""
        pattern = torch.rand(count, self.vocab, generator=random).argsort(1)[:, : self._period]
        text = pattern.repeat(1, -(-(self.tokens + 1) // self._period))[:, : self.tokens + 1]
        targets = text[:, 1:].clone()
        targets[:, : self._period - 1] = -1
        return Sample(text[:, :-1].clone(), targets)
