"""Retentions of core: keep everything, or multiply the memory by one number per token and head."""

from collections.abc import Callable, Mapping

import torch

from hecate_core.gates import RETAIN, Gate
from hecate_core.records import Tokens
from hecate_core.shapes import Tensor

Map = Callable[[Tensor], Tensor]


class NoDecay:
    """Forgets nothing: retain is 1 at every token."""

    gates: Mapping[str, Gate] = {}
    axis: str = "scalar"
    domain = "real"
    link: Map | None = None
    inverse: Map | None = None
    project: Map | None = None

    def keep(self, tokens: Tokens) -> Tensor:
        """Ones, `[B, H, T]`."""
        first = next(iter(tokens.values()))[..., 0]
        return torch.ones_like(first, dtype=torch.promote_types(first.dtype, torch.float32))


class ScalarDecay(NoDecay):
    """M -> retain M with one gate per token and head. Source: [2501.00663] Eq. 13, with retain = 1 - alpha."""

    gates: Mapping[str, Gate] = {"retain": RETAIN}

    def keep(self, tokens: Tokens) -> Tensor:
        """The gate itself, `[B, H, T]`."""
        retain: Tensor = tokens.retain
        return retain
