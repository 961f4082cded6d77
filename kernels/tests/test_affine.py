"""The pair `affine` carries its state, rests where it should and says what it cannot take."""

import pytest
import torch
from hecate_kernels.affine import AffineOnHost

from hecate_core.api import AffineTokens, InputError


def test_token_by_token_is_one_call() -> None:
    pair, tokens = AffineOnHost(), _tokens(5)._replace(momentum=_tokens(5).write)
    memory, surprise = torch.zeros(2, 2, 1, 16, 16)
    y, end, surprise_end, _ = pair.forward(tokens, memory, surprise, 64)
    reads = []
    for t in range(5):
        one = AffineTokens._make(None if part is None else part[:, :, t : t + 1] for part in tokens)
        read, memory, surprise, _ = pair.forward(one, memory, surprise, 64)
        reads.append(read)
    assert torch.allclose(torch.cat(reads, 2), y, atol=1e-6)
    assert torch.allclose(memory, end, atol=1e-6)
    assert surprise is not None
    assert surprise_end is not None
    assert torch.allclose(surprise, surprise_end, atol=1e-6)


def _tokens(length: int, width: int = 16, dtype: torch.dtype = torch.float32) -> AffineTokens:
    generator = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, 2, 1, length, width, generator=generator).to(dtype)
    gates = torch.rand(3, 2, 1, length, generator=generator)
    return AffineTokens(q, torch.nn.functional.normalize(k, dim=-1), v, gates[0], gates[1], gates[1], None, None)


def test_two_calls_with_carried_state_are_one_call() -> None:
    pair, tokens = AffineOnHost(), _tokens(75)
    memory = torch.zeros(2, 1, 16, 16)
    y, end, _, _ = pair.forward(tokens, memory, None, 64)
    parts = [AffineTokens._make(None if one is None else one[:, :, cut] for one in tokens)
             for cut in (slice(0, 41), slice(41, 75))]  # fmt: skip
    first, middle, _, _ = pair.forward(parts[0], memory, None, 64)
    second, last, _, _ = pair.forward(parts[1], middle, None, 64)
    assert torch.allclose(torch.cat((first, second), 2), y, atol=1e-6)
    assert torch.allclose(last, end, atol=1e-6)


def test_neutral_tokens_leave_the_memory_bit_for_bit() -> None:
    tokens = _tokens(40)
    still = torch.zeros_like(tokens.keep)
    tokens = tokens._replace(keep=still + 1, erase=still, write=still)
    memory = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(AffineOnHost().forward(tokens, memory, None, 64)[1], memory)


def test_other_dtypes_and_sizes_are_refused_with_what_would_do() -> None:
    memory = torch.zeros(2, 1, 16, 16)
    with pytest.raises(InputError, match="q, k, v are float64, float64, float64; its kernels take float32 or bfloat16"):
        AffineOnHost().forward(_tokens(3, dtype=torch.float64), memory, None, 64)
    with pytest.raises(InputError, match="head sizes 300 and 300; its kernels take up to 256"):
        AffineOnHost().forward(_tokens(3, width=300), memory, None, 64)
