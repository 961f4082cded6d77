"""Links from evidence to weights, and their adjoints: shares of a mass, ratios to a norm, entry by entry.

Spec: specs/knobs/kl.md, Eq. 2; lq.md, Eq. 1 to 3; bregman.md, Eq. 2; elastic-ftrl.md, Eq. 2. The adjoints are their
sections Gradient (VJP).
"""

import math
from typing import NamedTuple

import torch

from hecate_core.api import Float, Tensor

AXES = {"column": (-2,), "row": (-1,), "all": (-2, -1)}
ENTRIES = ("exponential", "logistic", "sinh", "soft", "arctan")
KINDS = (*AXES, "printed", "powered", *ENTRIES)


class LinkOption(NamedTuple):
    """A link in words that a kernel can have: one of `KINDS`, its level, a norm's q.

    The level is the mass of shares, the floor of a norm, the scale of "sinh", the threshold of "soft" and "arctan".
    """

    kind: str
    level: float = 1.0
    exponent: float = 1.0


def linked(option: LinkOption, a: Float[Tensor, "... V K"]) -> Float[Tensor, "... V K"]:
    """The weights of some evidence."""
    if option.kind in AXES:
        return shares(a, option.kind, option.level)
    if option.kind in ENTRIES:
        return by_entry(a, option.kind, option.level)
    return (printed if option.kind == "printed" else powered)(a, option.exponent, option.level)


def linked_adjoint(option: LinkOption, a: Float[Tensor, "... V K"], dw: Tensor) -> Float[Tensor, "... V K"]:
    """The adjoint of the evidence, from that of its weights."""
    if option.kind in AXES:
        w = shares(a, option.kind, option.level)
        return w * (dw - (w * dw).sum(AXES[option.kind], keepdim=True) / option.level)
    if option.kind in ENTRIES:
        return slope_by_entry(a, option.kind, option.level) * dw
    q, size = option.exponent, norm(a, option.exponent, option.level)
    ratio = a / size
    slope = torch.where(size > option.level, (2.0 - q) * ratio.sign() * ratio.abs().pow(q - 1.0), 0.0)
    if option.kind == "printed":
        return size.pow(2.0 - q) * (dw + slope * (ratio * dw).sum((-2, -1), keepdim=True))
    safe = torch.where(a == 0.0, 1.0, ratio).abs()
    along = (ratio.sign() * ratio.abs().pow(q - 1.0) * dw).sum((-2, -1), keepdim=True)
    return torch.where(a == 0.0, 0.0, (q - 1.0) * safe.pow(q - 2.0) * dw + slope * along)


def by_entry(a: Float[Tensor, "..."], kind: str, level: float) -> Float[Tensor, "..."]:
    """Every entry by itself: exp A, sigmoid A, level sinh A, soft A, or A |arctan(A / level)| 2 / pi."""
    if kind == "exponential":
        return a.exp()
    if kind == "logistic":
        return torch.sigmoid(a)
    if kind == "sinh":
        return level * torch.sinh(a)
    if kind == "soft":
        return soft(a, level)
    return a * torch.atan(a / level).abs() * (2.0 / math.pi)


def slope_by_entry(a: Float[Tensor, "..."], kind: str, level: float) -> Float[Tensor, "..."]:
    """The derivative of `by_entry`; that of "soft" is 1 where an entry survives, 0 elsewhere, the kink included."""
    if kind == "exponential":
        return a.exp()
    if kind == "logistic":
        return torch.sigmoid(a) * torch.sigmoid(-a)
    if kind == "sinh":
        return level * torch.cosh(a)
    if kind == "soft":
        return (a.abs() > level).to(a.dtype)
    return (torch.atan(a / level).abs() + a.abs() * level / (level * level + a * a)) * (2.0 / math.pi)


def soft(weights: Float[Tensor, "..."], threshold: float) -> Float[Tensor, "..."]:
    """sign(w) max(|w| - threshold, 0); its slope is 1 where an entry survives, 0 elsewhere, the kink included."""
    return torch.where(weights.abs() <= threshold, 0.0, weights - threshold * weights.sign())  # NaN stays NaN


def shares(a: Float[Tensor, "... V K"], over: str, mass: float) -> Float[Tensor, "... V K"]:
    """mass softmax(A) over every "column", every "row" or "all" entries."""
    if over == "all":
        return mass * torch.softmax(a.flatten(-2), -1).view(a.shape)
    return mass * torch.softmax(a, AXES[over][0])


def norm(matrix: Float[Tensor, "... V K"], q: float, floor: float = 1e-12) -> Float[Tensor, "... 1 1"]:
    """|A|_q over the last two axes, at least `floor`; scaled by the largest entry, so powers do not overflow."""
    size = matrix.abs()
    largest = size.amax((-2, -1), keepdim=True).clamp(min=floor)
    ratios = (size / largest).pow(q).sum((-2, -1), keepdim=True).clamp(min=1.0)  # below 1 only where A is nothing
    total: Tensor = largest * ratios.pow(1.0 / q)
    return total


def printed(a: Float[Tensor, "... V K"], q: float, floor: float = 1e-12) -> Float[Tensor, "... V K"]:
    """A / |A|_q^(q-2)."""
    return a * norm(a, q, floor).pow(2.0 - q)


def printed_inverse(w: Float[Tensor, "... V K"], q: float, floor: float = 1e-12) -> Float[Tensor, "... V K"]:
    """W |W|_q^((q-2)/(3-q)), because |W| = |A|^(3-q)."""
    return w * norm(w, q, floor).pow((q - 2.0) / (3.0 - q))


def powered(a: Float[Tensor, "... V K"], q: float, floor: float = 1e-12) -> Float[Tensor, "... V K"]:
    """sign(A) |A|^(q-1) / |A|_q^(q-2); entries that are 0 stay 0 and pass no gradient."""
    safe = torch.where(a == 0.0, 1.0, a)
    size = norm(a, q, floor)
    return torch.where(a == 0.0, 0.0, safe.sign() * (safe.abs() / size).pow(q - 1.0) * size)
