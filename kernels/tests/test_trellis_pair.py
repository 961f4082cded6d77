"""The pair `trellis` goes token by token, rests where it should and says what it cannot take."""

import pytest
import torch
from hecate_trellis.kernels import TrellisOnHost
from hecate_trellis.op import TrellisTokens, option_of

from hecate_core.api import InputError


def _tokens(length: int, slots: int = 6, width: int = 16) -> TrellisTokens:
    random = torch.Generator().manual_seed(length)
    q, code = torch.randn(2, 1, 2, length, slots, generator=random)
    w = torch.nn.functional.normalize(torch.randn(1, 2, length, width, generator=random), dim=-1)
    retain, write = torch.rand(2, 1, 2, length, generator=random)
    return TrellisTokens(q, w, code, retain, 0.3 * write, None)


def test_token_by_token_is_one_call() -> None:
    pair, tokens, option = TrellisOnHost(), _tokens(5), option_of("silu", "entries")
    store = torch.randn(1, 2, 6, 16, generator=torch.Generator().manual_seed(0))
    y, end, _ = pair.forward(tokens, store, option)
    reads = []
    for t in range(5):
        one = TrellisTokens._make(None if part is None else part[:, :, t : t + 1] for part in tokens)
        read, store, _ = pair.forward(one, store, option)
        reads.append(read)
    assert torch.allclose(torch.cat(reads, 2), y, atol=1e-6)
    assert torch.allclose(store, end, atol=1e-6)


def test_tokens_at_rest_leave_the_store_bit_for_bit() -> None:
    tokens = _tokens(5)._replace(due=torch.zeros(1, 2, 5, dtype=torch.bool))
    store = torch.randn(1, 2, 6, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(TrellisOnHost().forward(tokens, store, option_of("silu", "entries"))[1], store)


def test_stores_beyond_any_head_are_refused_with_what_would_do() -> None:
    with pytest.raises(InputError, match="head sizes 16 and 300; its kernels take up to 256, or use backend"):
        TrellisOnHost().forward(_tokens(1, 300, 16), torch.zeros(1, 2, 300, 16), option_of("silu", "entries"))
