"""The maps over slots that Trellis names, each with an analytical pullback (specs/rules/trellis.md, Eq. 5 to 8)."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F

from hecate_core.api import Float, Tensor

EPS = 1e-5  # under the roots of both norms


Map = Callable[[Float[Tensor, "... M"]], Float[Tensor, "... M"]]
Pull = Callable[[Float[Tensor, "... M"], Float[Tensor, "... M"]], Float[Tensor, "... M"]]
Bend = Callable[[Float[Tensor, "... M"], Float[Tensor, "... M"], Float[Tensor, "... M"]], Float[Tensor, "... M"]]


class SlotMap(NamedTuple):
    """A map over slots and its derivatives; `whole` says that a slot's answer depends on the other slots.

    y = value(z), J(z)^T d = pullback(z, d), J(z) t = push(z, t), and bend(z, d, t) is the derivative of J(z)^T d by z
    along t.
    """

    value: Map
    pullback: Pull
    push: Pull
    bend: Bend
    whole: bool = False


class _Norm(NamedTuple):
    """A map after SiLU, with the same derivatives; its Jacobian is symmetric, so pullback and push are one."""

    value: Map
    back: Pull
    bend: Bend


def _slope(z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return gate * (1.0 + z * (1.0 - gate))


def _curve(z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return gate * (1.0 - gate) * (2.0 + z * (1.0 - 2.0 * gate))


def _silu_back(z: Tensor, d: Tensor) -> Tensor:
    return d * _slope(z)


def _unit(x: Tensor) -> Tensor:
    return x * _unit_scale(x)


def _unit_scale(x: Tensor) -> Tensor:
    return torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)


def _unit_back(x: Tensor, d: Tensor) -> Tensor:
    scale = _unit_scale(x)
    return scale * (d - scale.square() * x * (x * d).sum(-1, keepdim=True))


def _unit_bend(x: Tensor, d: Tensor, t: Tensor) -> Tensor:
    scale = _unit_scale(x)
    xd, xt, td = ((a * b).sum(-1, keepdim=True) for a, b in ((x, d), (x, t), (t, d)))
    return scale.pow(3) * ((3.0 * scale.square() * xt * xd - td) * x - xt * d - xd * t)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _normal_scale(centred: Tensor) -> Tensor:
    return torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPS)


def _normal(x: Tensor) -> Tensor:
    centred = _centred(x)
    return centred * _normal_scale(centred)


def _normal_back(x: Tensor, d: Tensor) -> Tensor:
    centred = _centred(x)
    scale = _normal_scale(centred)
    return _centred(scale * (d - scale.square() * centred * (centred * d).mean(-1, keepdim=True)))


def _normal_bend(x: Tensor, d: Tensor, t: Tensor) -> Tensor:
    x, t = _centred(x), _centred(t)
    scale = _normal_scale(x)
    xd, xt, td = ((a * b).mean(-1, keepdim=True) for a, b in ((x, d), (x, t), (t, d)))
    return _centred(scale.pow(3) * ((3.0 * scale.square() * xt * xd - td) * x - xt * d - xd * t))


def _softmax(z: Tensor) -> Tensor:
    return torch.softmax(z, -1)


def _softmax_back(z: Tensor, d: Tensor) -> Tensor:
    share = torch.softmax(z, -1)
    return share * (d - (share * d).sum(-1, keepdim=True))


def _softmax_bend(z: Tensor, d: Tensor, t: Tensor) -> Tensor:
    share, moved = torch.softmax(z, -1), _softmax_back(z, t)
    return moved * (d - (share * d).sum(-1, keepdim=True)) - share * (moved * d).sum(-1, keepdim=True)


def _after_silu(norm: _Norm) -> SlotMap:
    """A norm of SiLU(z)."""

    def pullback(z: Tensor, d: Tensor) -> Tensor:
        return _silu_back(z, norm.back(F.silu(z), d))

    def push(z: Tensor, t: Tensor) -> Tensor:
        return norm.back(F.silu(z), _slope(z) * t)

    def bend(z: Tensor, d: Tensor, t: Tensor) -> Tensor:
        h, slope = F.silu(z), _slope(z)
        return _curve(z) * t * norm.back(h, d) + slope * norm.bend(h, d, slope * t)

    return SlotMap(lambda z: norm.value(F.silu(z)), pullback, push, bend, whole=True)


MAPS: Mapping[str, SlotMap] = {
    "identity": SlotMap(lambda z: z, lambda z, d: d, lambda z, t: t, lambda z, d, t: torch.zeros_like(z)),
    "silu": SlotMap(F.silu, _silu_back, _silu_back, lambda z, d, t: _curve(z) * d * t),
    "l2-silu": _after_silu(_Norm(_unit, _unit_back, _unit_bend)),
    "ln-silu": _after_silu(_Norm(_normal, _normal_back, _normal_bend)),
    "softmax": SlotMap(_softmax, _softmax_back, _softmax_back, _softmax_bend, whole=True),
}
