"""The pair `lattice` goes token by token, rests where it should and says what it cannot take."""

import pytest
import torch
from hecate_kernels.pair import SHARED_LIMITS
from hecate_kernels.slot_pair import SlotCall
from hecate_kernels.slots import Slots
from hecate_lattice.kernels import LatticeKernels, LatticeOnHost
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


def test_slots_beyond_any_head_are_refused_with_what_would_do() -> None:
    tokens = _tokens(1, 300, 16)
    with pytest.raises(InputError, match="head sizes 300 and 16; its kernels take up to 256, or use backend"):
        LatticeOnHost().forward(tokens, torch.zeros(1, 2, 16, 300), "decode")


def test_a_card_with_little_shared_memory_gets_shorter_chunks_or_a_reason() -> None:
    pair, found = LatticeKernels("host"), {}
    call = SlotCall(Slots.of(256, 256, 1), torch.float32, "decode", (True, False, False))
    for arch in ("sm_86", "sm_80", "sm_90a"):
        found[arch] = pair.cut(call, 64, SHARED_LIMITS[arch]).slots.chunk
    assert found == {"sm_86": 8, "sm_80": 16, "sm_90a": 32}
    with pytest.raises(
        InputError, match=r"256 slots of 256 entries need \d+ bytes of shared memory, this card gives 999;"
    ):
        pair.cut(call, 64, 999)
