"""Two timescales: a short pattern that is soon replaced, interleaved with a long one that stays.

Spec: specs/tasks/two-timescale.md.
"""

import torch

from hecate_core.api import InputError, Sample, Tensor


class TwoTimescale:
    """Every other token is of the fast stream, the others of the slow one; the next token is to be predicted.

    The fast stream repeats `fast` distinct ids of the lower half of the vocabulary, drawn anew after every `change` of
    its tokens; the slow one repeats `slow` distinct ids of the upper half to the end. A token counts where its pattern
    has been read once. derived: what a memory that forgets and one that keeps are each good for; see the spec.
    """

    name = "two-timescale"
    spec = "tasks/two-timescale.md"

    def __init__(self, *, vocab: int = 32, fast: int = 4, change: int = 16, slow: int = 16, tokens: int = 192) -> None:
        half = vocab // 2
        if not (1 <= fast <= half and 1 <= slow <= half and change > fast and tokens >= 2 * slow):
            raise InputError(
                f"two-timescale: vocab {vocab}, fast {fast}, change {change}, slow {slow}, tokens {tokens}; "
                "expected fast and slow in 1 .. vocab / 2, change > fast, tokens >= 2 slow"
            )
        self.vocab, self.tokens = 2 * half, tokens
        self._half, self._fast, self._change, self._slow = half, fast, change, slow
        self.chance = 1.0 / half

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """See `Task.sample`; the first token is of the fast stream."""
        steps = self.tokens // 2 + 1
        epochs = -(-steps // self._change)
        n = torch.arange(steps)
        patterns = self._patterns(count * epochs, self._fast, random).unflatten(0, (count, epochs))
        quick = patterns[:, n // self._change, (n % self._change) % self._fast]
        steady = self._half + self._patterns(count, self._slow, random)[:, n % self._slow]
        text = torch.stack((quick, steady), 2).flatten(1)[:, : self.tokens + 1]
        known = torch.stack((n % self._change >= self._fast, n >= self._slow), 1).flatten()[: self.tokens + 1]
        targets = torch.where(known, text, -1)
        return Sample(text[:, :-1].clone(), targets[:, 1:].clone())

    def _patterns(self, count: int, length: int, random: torch.Generator) -> Tensor:
        """`[count, length]` distinct ids below half of the vocabulary."""
        return torch.rand(count, self._half, generator=random).argsort(1)[:, :length]
