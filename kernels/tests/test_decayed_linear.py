"""The pair `decayed_linear` reads fewer times than it writes. What holds for every pair: test_every_pair.py."""

import pytest
import torch
from hecate_kernels.decayed_linear import DecayedOnHost

from hecate_core.api import Decays, Reads
from hecate_core.ops.decayed_linear import REFERENCE


@pytest.mark.parametrize("count", [0, 2])
def test_fewer_reads_than_updates_are_read_after_the_last_of_each_group(count: int) -> None:
    random = torch.Generator().manual_seed(count)
    q, u, x = (torch.randn(1, 2, rows, 16, generator=random) for rows in (count, 4, 4))
    reach = torch.rand(1, 2, 4, 4, generator=random).tril()[:, :, 1::2][:, :, :count]
    shares = [torch.rand(1, 2, *shape, generator=random) for shape in ((count, 1), (4, 1), (1, 1))]
    stored, d_y, d_end = (
        torch.randn(1, 2, *shape, generator=random) for shape in ((1, 16, 16), (count, 16), (1, 16, 16))
    )
    found = []
    for pair in (DecayedOnHost(), REFERENCE):
        y, end, saved = pair.forward(Reads(q, u, x), stored, Decays(reach, *shares))
        reads, d_stored, decays = pair.backward(saved, d_y, d_end)
        d_reach = torch.where(reach > 0.0, decays.reach, 0.0)  # what comes later is no question
        found.append((y, end, *reads, d_stored, d_reach, *decays[1:]))
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*found, strict=True))
