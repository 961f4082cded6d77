"""The maps over slots that Trellis names, each with an analytical pullback (specs/rules/trellis.md, Eq. 5 to 8)."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F

from hecate_core.api import Float, Tensor

EPS = 1e-5  # under the roots of both norms


class SlotMap(NamedTuple):
    """y = value(z), and J(z)^T d = pullback(z, d); `whole` says that a slot's answer depends on the other slots."""

    value: Callable[[Float[Tensor, "... M"]], Float[Tensor, "... M"]]
    pullback: Callable[[Float[Tensor, "... M"], Float[Tensor, "... M"]], Float[Tensor, "... M"]]
    whole: bool = False


def _silu_back(z: Tensor, d: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return d * gate * (1.0 + z * (1.0 - gate))


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)


def _unit_back(x: Tensor, d: Tensor) -> Tensor:
    scale = torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)
    return scale * (d - scale.square() * x * (x * d).sum(-1, keepdim=True))


def _normal(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPS)


def _normal_back(x: Tensor, d: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPS)
    inner = d - scale.square() * centred * (centred * d).mean(-1, keepdim=True)
    return scale * (inner - inner.mean(-1, keepdim=True))


def _softmax(z: Tensor) -> Tensor:
    return torch.softmax(z, -1)


def _softmax_back(z: Tensor, d: Tensor) -> Tensor:
    share = torch.softmax(z, -1)
    return share * (d - (share * d).sum(-1, keepdim=True))


def _after_silu(value: Callable[[Tensor], Tensor], back: Callable[[Tensor, Tensor], Tensor]) -> SlotMap:
    """A norm of SiLU(z)."""
    return SlotMap(lambda z: value(F.silu(z)), lambda z, d: _silu_back(z, back(F.silu(z), d)), whole=True)


MAPS: Mapping[str, SlotMap] = {
    "identity": SlotMap(lambda z: z, lambda z, d: d),
    "silu": SlotMap(F.silu, _silu_back),
    "l2-silu": _after_silu(_unit, _unit_back),
    "ln-silu": _after_silu(_normal, _normal_back),
    "softmax": SlotMap(_softmax, _softmax_back, whole=True),
}
