"""State tracking: the running product of a word in a group, asked at every token.

Specs: specs/tasks/parity.md, specs/tasks/s3.md.
"""

from itertools import permutations

import torch

from hecate_core.api import InputError, Sample, Tensor


class Parity:
    """Bits; the target at t is the parity of bits 1..t.

    Source: [2411.12537] Sec. 5 (what a transition needs negative eigenvalues for).
    """

    name = "parity"
    spec = "tasks/parity.md"
    vocab = 2
    chance = 0.5

    def __init__(self, *, tokens: int = 40) -> None:
        if tokens < 1:
            raise InputError(f"parity: tokens = {tokens}; expected an integer >= 1")
        self.tokens = tokens

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """See `Task.sample`; every position counts."""
        ids = torch.randint(2, (count, self.tokens), generator=random)
        return Sample(ids, ids.cumsum(1) % 2)


class SymmetricGroup:
    """Words over the six permutations of three things; the target at t is the product of the first t.

    Source: [2404.08819] Sec. 3 (word problem of S_n), for n = 3.
    """

    name = "s3"
    spec = "tasks/s3.md"
    vocab = 6
    chance = 1.0 / 6.0

    def __init__(self, *, tokens: int = 40) -> None:
        if tokens < 1:
            raise InputError(f"s3: tokens = {tokens}; expected an integer >= 1")
        self.tokens = tokens
        self._table = _products()

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """See `Task.sample`; every position counts."""
        ids = torch.randint(6, (count, self.tokens), generator=random)
        running, products = torch.zeros(count, dtype=torch.int64), []
        for t in range(self.tokens):
            running = self._table[running, ids[:, t]]
            products.append(running)
        return Sample(ids, torch.stack(products, 1))


def _products() -> Tensor:
    """`[6, 6]`: the index of "first a, then b"; 0 is the identity."""
    elements = list(permutations(range(3)))
    index = {element: number for number, element in enumerate(elements)}
    return torch.tensor([[index[tuple(b[a[i]] for i in range(3))] for b in elements] for a in elements])
