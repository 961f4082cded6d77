"""The op `decayed_linear`: read through weights that decay and grow by one rank-one update per token.

    S_t = momentum_t S_{t-1} + u_t x_t^T          (without momentum: S_t = u_t x_t^T)
    A_t = keep_t A_{t-1} + inject_t S_t           (inject defaults to 1)
    y_t = A_t q_t

for one chunk whose updates are all known. With Z = [A, S] the chunk's first matrices (J of them):
y_t = sum_j reads_tj Z_j q_t + sum over i <= t of reach_ti (x_i . q_t) u_i, and no A_t is formed
(specs/forms/linearised.md, Eq. 3). Every MLP or matrix memory under `frozen` is made of it.
"""

from typing import Any, NamedTuple, Protocol

import torch

from hecate_core.ops.decay import between, between_adjoint
from hecate_core.ops.first_order import first_order
from hecate_core.ops.serving import settled
from hecate_core.shapes import Float, Tensor


class Decays(NamedTuple):
    """What decay, momentum and inject of a chunk come to; J is 2 with momentum, else 1."""

    reach: Float[Tensor, "B H C C"]  # share of u_i x_i^T in A_t, lower triangular
    reads: Float[Tensor, "B H C J"]  # share of Z_j in A_t
    ends: Float[Tensor, "B H C J"]  # share of u_i x_i^T in Z_j after the chunk
    carry: Float[Tensor, "B H J J"]  # Z after the chunk = carry Z + the updates


def decays(keep: Float[Tensor, "... C"], momentum: Tensor | None, inject: Tensor | None) -> Decays:
    """Products over a chunk, batched over every leading axis; differentiable, right at decays of exactly 0."""
    gates = (keep, momentum, inject)
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in gates):
        return Decays._make(_Decays.apply(*gates))
    return _made(keep, momentum, inject)[0]


def _made(keep: Tensor, momentum: Tensor | None, inject: Tensor | None) -> tuple[Decays, tuple[Tensor, ...]]:
    """The decays, and what their adjoint wants: products of keep, those weighed by inject, products of momentum."""
    keeps = between(keep)
    scaled = keeps[..., 1:] if inject is None else keeps[..., 1:] * inject.unsqueeze(-2)
    if momentum is None:
        start = keeps[..., :1]
        made = Decays(scaled[..., 1:, :], start[..., 1:, :], scaled[..., -1, :].unsqueeze(-1), start[..., -1:, :])
        return made, (keeps, scaled)
    momenta = between(momentum)
    reach = scaled @ momenta[..., 1:, :]
    reads = torch.stack((keeps[..., 0], reach[..., 0]), -1)
    recent = momenta[..., -1, :]
    ends = torch.stack((reach[..., -1, 1:], recent[..., 1:]), -1)
    second = torch.stack((torch.zeros_like(recent[..., 0]), recent[..., 0]), -1)
    carry = torch.stack((reads[..., -1, :], second), -2)
    return Decays(reach[..., 1:, 1:], reads[..., 1:, :], ends, carry), (keeps, scaled, momenta)


class _Decays(torch.autograd.Function):
    """The products forward; backward their adjoint without a division (specs/forms/affine.md, Eq. 11 and 12)."""

    @staticmethod
    def forward(ctx: Any, keep: Tensor, momentum: Tensor | None, inject: Tensor | None) -> tuple[Tensor, ...]:
        made, parts = _made(keep, momentum, inject)
        ctx.save_for_backward(inject, *parts)
        return made

    @staticmethod
    @first_order
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        inject, keeps, scaled, *momenta = ctx.saved_tensors
        d = Decays._make(adjoints)
        d_keeps, d_momentum = torch.zeros_like(keeps), None
        d_keeps[..., 1:, 0] = d.reads[..., 0]
        d_keeps[..., -1, 0] += d.carry[..., 0, 0]
        d_reach = torch.zeros_like(keeps)  # column 0: the share of S_0
        d_reach[..., 1:, 1:] = d.reach
        d_reach[..., -1, 1:] += d.ends[..., 0]
        d_scaled = d_reach[..., 1:]
        if momenta:
            d_reach[..., 1:, 0] = d.reads[..., 1]
            d_reach[..., -1, 0] += d.carry[..., 0, 1]
            d_scaled = d_reach @ momenta[0][..., 1:, :].mT
            d_momenta = torch.nn.functional.pad(scaled.mT @ d_reach, (0, 0, 1, 0))
            d_momenta[..., -1, 0] += d.carry[..., 1, 1]
            d_momenta[..., -1, 1:] += d.ends[..., 1]
            d_momentum = between_adjoint(momenta[0], d_momenta)
        d_inject = None if inject is None else (d_scaled * keeps[..., 1:]).sum(-2)
        d_keeps[..., 1:] += d_scaled if inject is None else d_scaled * inject.unsqueeze(-2)
        return between_adjoint(keeps, d_keeps), d_momentum, d_inject


class Reads(NamedTuple):
    """What the op reads per token beside the decays: queries, updates and the inputs they belong to."""

    q: Float[Tensor, "B H C K"]
    u: Float[Tensor, "B H C V"]
    x: Float[Tensor, "B H C K"]


class DecayedLinearPair(Protocol):
    """One implementation of the op: a forward and its analytical backward, on flat tensors.

    `saved` is whatever this backward wants from its forward, inputs included. A pair with a limit says `longest`: the
    updates that one call takes; `frozen` walks a longer chunk in pieces, which is the same function.
    """

    op: str
    backend: str

    def forward(
        self, reads: Reads, stored: Float[Tensor, "B H J V K"], decays: Decays
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """y `[B, H, C, V]`, the stored matrices after the chunk, saved tensors."""
        ...

    def backward(
        self, saved: tuple[Tensor, ...], d_y: Float[Tensor, "B H C V"], d_end: Float[Tensor, "B H J V K"]
    ) -> tuple[Reads, Tensor, Decays]:
        """Gradients by reads, stored matrices and decays."""
        ...


class ReferencePair:
    """The op in plain torch, on any device: five matrix products forward, ten backward."""

    op = "decayed_linear"
    backend = "reference"

    def forward(
        self, reads: Reads, stored: Float[Tensor, "B H J V K"], decays: Decays
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """See `DecayedLinearPair.forward`; saves its inputs and every product that its backward wants again."""
        flat = [one.flatten(0, 1) for one in (*reads, stored, *decays)]
        q, u, x, z, reach, shares, ends, carry = flat
        rows = stored.shape[3]
        matrices = z.flatten(1, 2)  # G JV K
        scores = torch.bmm(q, x.mT)
        answers = torch.bmm(q, matrices.mT)  # G C JV
        y = answers[..., :rows] * shares[..., :1]
        if answers.shape[2] > rows:
            y.addcmul_(answers[..., rows:], shares[..., 1:])
        weighted, moving = scores * reach, _spread(u, ends)
        y.baddbmm_(weighted, u)
        end = torch.bmm(carry, z.flatten(2)).view(matrices.shape)
        end.baddbmm_(moving.mT, x)
        saved = (*flat, scores, answers, weighted, moving)
        return y.view(*reads.q.shape[:3], rows), end.view(stored.shape), saved

    def backward(
        self, saved: tuple[Tensor, ...], d_y: Float[Tensor, "B H C V"], d_end: Float[Tensor, "B H J V K"]
    ) -> tuple[Reads, Tensor, Decays]:
        """See `DecayedLinearPair.backward`; specs/forms/linearised.md, Eq. 4 to 9."""
        q, u, x, z, reach, shares, ends, carry, scores, answers, weighted, moving = saved
        lead, wide = d_y.shape[:2], (*u.shape[:2], z.shape[1], u.shape[2])  # G C J V
        dy, dz, rows = d_y.flatten(0, 1), d_end.flatten(0, 1), u.unsqueeze(2)
        d_matrices = dz.flatten(1, 2)
        # What the updates leave in the stored matrices.
        moved = torch.bmm(x, d_matrices.mT).view(wide)
        du = (moved * ends.unsqueeze(-1)).sum(2)
        d_ends = moved.mul_(rows).sum(-1)
        dx = torch.bmm(moving, d_matrices)
        # What the reads take from updates ...
        d_weighted = torch.bmm(dy, u.mT)
        d_scores = d_weighted * reach
        du.baddbmm_(weighted.mT, dy)
        dx.baddbmm_(d_scores.mT, q)
        # ... and from the stored matrices.
        d_answers = _spread(dy, shares)
        dq = torch.bmm(d_answers, z.flatten(1, 2)).baddbmm_(d_scores, x)
        d_shares = (answers.view(*q.shape[:2], *wide[2:]) * dy.unsqueeze(2)).sum(-1)
        flat_dz = dz.flatten(2)
        d_stored = torch.bmm(carry.mT, flat_dz).view(d_matrices.shape)
        d_stored.baddbmm_(d_answers.mT, q)
        d_carry = torch.bmm(flat_dz, z.flatten(2).mT)
        grads = (dq, du, dx, d_weighted * scores, d_shares, d_ends, d_carry)
        dq, du, dx, *d_decays = (one.view(*lead, *one.shape[1:]) for one in grads)
        return Reads(dq, du, dx), d_stored.view(d_end.shape), Decays._make(d_decays)


REFERENCE = ReferencePair()


def decayed_linear(
    reads: Reads, stored: Float[Tensor, "B H J V K"], decays: Decays, pair: DecayedLinearPair = REFERENCE
) -> tuple[Float[Tensor, "B H C V"], Float[Tensor, "B H J V K"], Float[Tensor, "B H V K"]]:
    """y_t = A_t q_t for every token of the chunk; then Z and, as a view of it, A after the last token.

    `stored` is Z = [A, S] with momentum, [A] without. Runs in the dtype of its tensors, float32 or wider.
    Gradients flow to every tensor by the pair's analytical backward, once. Derived: specs/forms/linearised.md;
    [2501.00663] Eq. 16-18 for the coefficients.
    """
    pair, given = settled(pair, reads.q, lambda one: (reads, stored, decays))
    flat = (*reads, stored, *decays)
    if torch.is_grad_enabled() and any(one.requires_grad for one in flat):
        y, end, memory = _DecayedLinear.apply(pair, *flat)
        return y, end, memory
    y, end, _ = pair.forward(*given)
    return y, end, end.select(2, 0)


class _DecayedLinear(torch.autograd.Function):
    """Joins a pair's forward and backward; double backward is refused.

    The memory is an output of its own: a view taken outside would cost a gradient as large as Z.
    """

    @staticmethod
    def forward(ctx: Any, pair: DecayedLinearPair, *flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, end, saved = pair.forward(Reads._make(flat[:3]), flat[3], Decays._make(flat[4:]))
        ctx.pair = pair
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*saved)
        ctx.shapes = y.shape, end.shape
        return y, end, end.select(2, 0)

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor | None, d_end: Tensor | None, d_memory: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        if d_y is None:
            d_y = saved[0].new_zeros(ctx.shapes[0])
        if d_end is None:
            d_end = saved[0].new_zeros(ctx.shapes[1])
        if d_memory is not None:
            d_end = d_end.clone()
            d_end.select(2, 0).add_(d_memory)
        back, d_stored, shares = ctx.pair.backward(saved, d_y.contiguous(), d_end.contiguous())
        return None, *back, d_stored, *shares


def _spread(rows: Float[Tensor, "G C V"], shares: Float[Tensor, "G C J"]) -> Float[Tensor, "G C JV"]:
    """The rows times each share, side by side."""
    return (rows.unsqueeze(2) * shares.unsqueeze(-1)).flatten(2)
