"""The op `linked_linear`: reads through a link of weights that decay and grow, in plain torch; kernels: `kernels.py`.

    A_t = sum_j shares_tj Z_j + sum_i reach_ti u_i x_i^T,    y_t = link(A_t) q_t

No A_t outlives its own read: the backward forms them again. Spec: specs/forms/linearised.md, Eq. 11.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch

from hecate_core.api import Decays, Float, Reads, Tensor, first_order, settled
from hecate_miras.links import LinkOption, linked, linked_adjoint

MOST = 1 << 20  # numbers of evidence that plain torch forms at once


class LinkedReads(NamedTuple):
    """All tensors of the op: T reads, N updates, J stored matrices."""

    q: Float[Tensor, "B H T K"]
    u: Float[Tensor, "B H N V"]
    x: Float[Tensor, "B H N K"]
    stored: Float[Tensor, "B H J V K"]
    reach: Float[Tensor, "B H T N"]  # share of u_i x_i^T in A_t, 0 for what comes later
    shares: Float[Tensor, "B H T J"]  # share of Z_j in A_t


class LinkedLinearPair(Protocol):
    """One implementation of the op: a forward and its analytical backward, which wants nothing but the inputs."""

    op: str
    backend: str

    def forward(self, reads: LinkedReads, link: LinkOption) -> Tensor:
        """y `[B, H, T, V]`."""
        ...

    def backward(self, reads: LinkedReads, link: LinkOption, d_y: Tensor) -> LinkedReads:
        """Gradients by every tensor."""
        ...


class Reference:
    """The op in plain torch, on any device: a few tokens at a time, so that their evidence stays small."""

    op = "linked_linear"
    backend = "reference"

    def forward(self, reads: LinkedReads, link: LinkOption) -> Tensor:
        """See `LinkedLinearPair.forward`."""
        answers = [reads.q[:, :, :0] @ reads.stored[:, :, 0].mT]
        for some in _pieces(reads):
            weights = linked(link, _evidence(reads, some)[0])
            answers.append((weights @ reads.q[:, :, some].unsqueeze(-1)).squeeze(-1))
        return torch.cat(answers, 2)

    def backward(self, reads: LinkedReads, link: LinkOption, d_y: Tensor) -> LinkedReads:
        """See `LinkedLinearPair.backward`; specs/forms/linearised.md, Eq. 12."""
        dq, d_reach, d_shares = (torch.zeros_like(one) for one in (reads.q, reads.reach, reads.shares))
        du, dx, d_stored = (torch.zeros_like(one) for one in (reads.u, reads.x, reads.stored))
        for some in _pieces(reads):
            a, reached = _evidence(reads, some)
            q, dy = reads.q[:, :, some], d_y[:, :, some]
            dq[:, :, some] = (dy.unsqueeze(-2) @ linked(link, a)).squeeze(-2)
            da = linked_adjoint(link, a, dy.unsqueeze(-1) * q.unsqueeze(-2))
            moved = reads.x.unsqueeze(2) @ da.mT  # B H t N V
            du += (reads.reach[:, :, some].unsqueeze(-1) * moved).sum(2)
            dx += (reached @ da).sum(2)
            d_reach[:, :, some] = (moved * reads.u.unsqueeze(2)).sum(-1)
            d_stored += (reads.shares[:, :, some].mT @ da.flatten(3)).view(d_stored.shape)
            d_shares[:, :, some] = da.flatten(3) @ reads.stored.flatten(3).mT
        return LinkedReads(dq, du, dx, d_stored, d_reach, d_shares)


REFERENCE = Reference()


def _pieces(reads: LinkedReads) -> list[slice]:
    """Tokens whose evidence is formed together."""
    per_token = max(1, reads.stored[:, :, 0].numel() + reads.u.numel())
    size = max(1, MOST // per_token)
    return [slice(first, first + size) for first in range(0, reads.q.shape[2], size)]


def _evidence(reads: LinkedReads, some: slice) -> tuple[Float[Tensor, "B H t V K"], Float[Tensor, "B H t N V"]]:
    """A_t, and the updates as far as they reach."""
    reached = reads.reach[:, :, some].unsqueeze(-1) * reads.u.unsqueeze(2)
    kept = (reads.shares[:, :, some] @ reads.stored.flatten(3)).unflatten(3, reads.stored.shape[3:])
    return kept + reached.mT @ reads.x.unsqueeze(2), reached


def linked_linear(reads: LinkedReads, link: LinkOption, pair: LinkedLinearPair = REFERENCE) -> Float[Tensor, "B H T V"]:
    """y_t = link(A_t) q_t for every token; gradients by the pair's analytical backward, once.

    Runs in the dtype of its tensors, float32 or wider. Source: [2504.13173] Eq. 28 with the links of Eq. 24 and 27.
    """
    pair, _ = settled(pair, reads.q, lambda one: (reads, link))
    made: Tensor = _Linked.apply(pair, link, *reads)
    return made


class _Linked(torch.autograd.Function):
    """Joins a pair's forward and backward."""

    @staticmethod
    def forward(ctx: Any, pair: LinkedLinearPair, link: LinkOption, *flat: Tensor) -> Tensor:
        ctx.save_for_backward(*flat)
        ctx.given = pair, link
        return pair.forward(LinkedReads._make(flat), link)

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor) -> tuple[Any, ...]:
        pair, link = ctx.given
        return None, None, *pair.backward(LinkedReads._make(ctx.saved_tensors), link, d_y)


@dataclass(frozen=True)
class OpLink:
    """A link of a retention that is an option of the op: maps evidence, and reads through it for `frozen`."""

    option: LinkOption
    pair: LinkedLinearPair = REFERENCE
    op: ClassVar[str] = "linked_linear"

    def __call__(self, stored: Float[Tensor, "... V K"]) -> Float[Tensor, "... V K"]:
        """link(A)."""
        return linked(self.option, stored)

    def read(self, reads: Reads, stored: Float[Tensor, "B H J V K"], decays: Decays) -> Float[Tensor, "B H T V"]:
        """y_t = link(A_t) q_t for every token of a piece."""
        return linked_linear(LinkedReads(*reads, stored, decays.reach, decays.reads), self.option, self.pair)

    def on(self, pair: LinkedLinearPair) -> "OpLink":
        """The link as a strategy with a pair for `op` takes it."""
        return replace(self, pair=pair)
