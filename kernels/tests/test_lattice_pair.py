"""The pair `lattice` goes token by token, rests where it should and says what it cannot take."""

import pytest
import torch
from hecate_lattice.kernels import LatticeOnHost
from hecate_lattice.op import LatticeTokens

from hecate_core.api import InputError


def _tokens(length: int, slots: int = 6, width: int = 16, dtype: torch.dtype = torch.float32) -> LatticeTokens:
    random = torch.Generator().manual_seed(length)
    q, k = torch.randn(2, 1, 2, length, slots, generator=random).to(dtype)
    v = torch.randn(1, 2, length, width, generator=random).to(dtype)
    return LatticeTokens(q, k, v, torch.rand(1, 2, length, generator=random), None, None)


def test_token_by_token_is_one_call() -> None:
    pair, tokens = LatticeOnHost(), _tokens(5)
    slots = torch.nn.functional.normalize(torch.ones(1, 2, 16, 6), dim=-2)
    y, end, _ = pair.forward(tokens, slots, "decode")
    reads = []
    for t in range(5):
        one = LatticeTokens._make(None if part is None else part[:, :, t : t + 1] for part in tokens)
        read, slots, _ = pair.forward(one, slots, "decode")
        reads.append(read)
    assert torch.allclose(torch.cat(reads, 2), y, atol=1e-6)
    assert torch.allclose(slots, end, atol=1e-6)


def test_tokens_at_rest_leave_the_slots_bit_for_bit() -> None:
    tokens = _tokens(5)._replace(due=torch.zeros(1, 2, 5, dtype=torch.bool))
    slots = torch.randn(1, 2, 16, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(LatticeOnHost().forward(tokens, slots, "decode")[1], slots)


def test_slots_that_no_block_holds_are_refused_with_what_would_do() -> None:
    tokens = _tokens(1, 200, 200)
    with pytest.raises(InputError, match="200 slots of 200 entries; its kernels hold up to 128 x 128 or 256 x 64"):
        LatticeOnHost().forward(tokens, torch.zeros(1, 2, 200, 200), "decode")
