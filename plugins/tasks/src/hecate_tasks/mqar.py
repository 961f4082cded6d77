"""Multi-query associative recall: many pairs first, each key asked for once, mostly soon.

Spec: specs/tasks/mqar.md.
"""

import torch

from hecate_core.api import InputError, Sample


class MultiQueryRecall:
    """Pairs k1 v1 k2 v2 ... then every key once among noise; the value is to be predicted at the key.

    Keys come from the lower half of the vocabulary (without 0), values from the upper half. The gap between the pairs
    and a query follows a power law: slot g (two tokens wide, from 1) has probability proportional to g^(power - 1).
    Without `noise` every other token is 0. Source: [2312.04927] Sec. 3 and App. E (Zoology).
    """

    name = "mqar"
    spec = "tasks/mqar.md"

    def __init__(
        self, *, vocab: int = 512, tokens: int = 64, pairs: int = 8, power: float = 0.01, noise: bool = True
    ) -> None:
        slots = (tokens - 2 * pairs) // 2
        if pairs < 1 or slots < pairs or vocab < 4 or vocab // 2 - 1 < pairs or power <= 0:
            raise InputError(
                f"mqar: vocab {vocab}, tokens {tokens}, pairs {pairs}, power {power}; "
                "expected pairs >= 1, tokens >= 4 * pairs, vocab >= 2 * pairs + 2, power > 0"
            )
        self.vocab, self.tokens, self.pairs, self._slots, self._noise = vocab, tokens, pairs, slots, noise
        self.chance = 1.0 / (vocab - vocab // 2)
        weights = torch.arange(1, slots + 1, dtype=torch.float64) ** (power - 1.0)
        self.gap_probabilities = weights / weights.sum()

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """See `Task.sample`; noise tokens are drawn from the whole vocabulary and never counted."""
        half = self.vocab // 2
        keys = 1 + torch.rand(count, half - 1, generator=random).argsort(1)[:, : self.pairs]
        values = half + torch.rand(count, self.vocab - half, generator=random).argsort(1)[:, : self.pairs]
        slots = torch.multinomial(
            self.gap_probabilities.expand(count, -1), self.pairs, replacement=False, generator=random
        )
        ids = torch.randint(self.vocab if self._noise else 1, (count, self.tokens), generator=random)
        targets = torch.full_like(ids, -1)
        ids[:, : 2 * self.pairs : 2], ids[:, 1 : 2 * self.pairs : 2] = keys, values
        asked = 2 * self.pairs + 2 * slots
        ids.scatter_(1, asked, keys)
        targets.scatter_(1, asked, values)
        return Sample(ids, targets)
