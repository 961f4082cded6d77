"""The pair `affine_column` meets the pair `affine` where all channels are equal."""

import torch
from hecate_kernels.affine_column import ColumnOnHost

from hecate_core.api import ColumnTokens


def test_equal_channels_are_the_scalar_rule() -> None:
    from hecate_kernels.affine import AffineOnHost

    from hecate_core.api import AffineTokens

    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 40, 16, generator=generator)
    keep, erase = torch.rand(2, 1, 2, 40, generator=generator)
    memory = torch.randn(1, 2, 16, 16, generator=generator)
    wide = [one.unsqueeze(-1).expand(1, 2, 40, 16) for one in (keep, erase)]
    column = ColumnOnHost().forward(ColumnTokens(q, k, v, *wide, erase), memory, 64)
    scalar = AffineOnHost().forward(AffineTokens(q, k, v, keep, erase, erase, None, None), memory, None, 64)
    assert torch.allclose(column[0], scalar[0], atol=1e-4, rtol=1e-4)
