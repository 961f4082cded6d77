"""The op `affine` in plain torch: exact chunk form forward, analytical backward.

Rows are tokens, index 0 of the decay products is the start of the chunk. The joint memory
Z = [M, S] is `[V, 2K]` with momentum and `[V, K]` without, so one code path serves both.
Equations: specs/forms/affine.md. Everything inside a few chunks (a segment) is batched; only the
recurrence of Z runs chunk by chunk. Working segment by segment keeps peak memory near one segment.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from hecate_core.ops.decay import between, between_adjoint
from hecate_core.shapes import Float, Tensor

# Elements of one segment's widest matrix: enough to fill the cores, small enough to stay in cache.
SEGMENT_ELEMENTS = 1 << 17


class AffineInputs(NamedTuple):
    """What the recurrence reads per token, cut into chunks; `momentum is None` means none."""

    q: Float[Tensor, "B H N C K"]
    k: Float[Tensor, "B H N C K"]
    v: Float[Tensor, "B H N C V"]
    keep: Float[Tensor, "B H N C"]
    erase: Float[Tensor, "B H N C"] | None
    write: Float[Tensor, "B H N C"]
    momentum: Float[Tensor, "B H N C"] | None
    inject: Float[Tensor, "B H N C"] | None

    def segment(self, start: int, stop: int) -> "AffineInputs":
        """The chunks from `start` to `stop`."""
        return AffineInputs._make(None if one is None else one[:, :, start:stop] for one in self)


class _Chunks(NamedTuple):
    """What both directions recompute for a segment: coefficients and the inverse of I + L."""

    keeps: Tensor  # C+1 C+1, products of keep
    momenta: Tensor | None  # C+1 C+1, products of momentum
    reach: Tensor  # C+1 C+1, coefficient of u_i k_i^T (column 0: of S_0) in M_t
    kk: Tensor | None  # C C
    inverse: Tensor | None  # C C, (I + L)^-1; None where nothing is erased
    reads: Tensor  # C J, b and gam: coefficients of Z_0 in M_t
    before: Tensor  # C J, the same one token earlier
    last: Tensor  # C J, coefficients of u_i k_i^T in Z_C


def _chunks(x: AffineInputs) -> _Chunks:
    keeps = between(x.keep)
    reach = keeps[..., 1:] if x.inject is None else keeps[..., 1:] * x.inject.unsqueeze(-2)
    if x.momentum is None:
        momenta = None
        reach = torch.nn.functional.pad(reach, (1, 0))
        start, last = keeps[..., :1], reach[..., -1, 1:, None]
    else:
        momenta = between(x.momentum)
        reach = reach @ momenta[..., 1:, :]
        start = torch.stack((keeps[..., 0], reach[..., 0]), -1)
        last = torch.stack((reach[..., -1, 1:], momenta[..., -1, 1:]), -1)
    kk = inverse = None
    if x.erase is not None:
        kk = x.k @ x.k.mT
        inverse = _unit_lower_inverse(x.erase.unsqueeze(-1) * reach[..., :-1, 1:] * kk)
    return _Chunks(keeps, momenta, reach, kk, inverse, start[..., 1:, :], start[..., :-1, :], last)


def _unit_lower_inverse(lower: Float[Tensor, "... C C"]) -> Float[Tensor, "... C C"]:
    """(I + L)^-1 for strictly lower L; the diagonal given is ignored."""
    size = lower.shape[-1]
    eye = torch.eye(size, dtype=lower.dtype, device=lower.device).expand_as(lower)
    inverse: Tensor = torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True)
    return inverse


def _scaled(rows: Float[Tensor, "... C K"], factors: Float[Tensor, "... C J"]) -> Float[Tensor, "... C J*K"]:
    """Rows times each factor column, side by side: [factor_0 * rows, factor_1 * rows]."""
    return (factors.unsqueeze(-1) * rows.unsqueeze(-2)).flatten(-2)


def _carry(c: _Chunks, n: int, joint: Float[Tensor, "B H V JK"]) -> Float[Tensor, "B H V JK"]:
    """What chunk n leaves of the joint memory it began with: [b_C M + gam_C S, h_C S]."""
    keep = c.keeps[:, :, n, -1, 0, None, None]
    if c.momenta is None:
        return keep * joint
    memory, surprise = joint.chunk(2, -1)
    reach, momentum = c.reach[:, :, n, -1, 0, None, None], c.momenta[:, :, n, -1, 0, None, None]
    return torch.cat((torch.addcmul(keep * memory, reach, surprise), momentum * surprise), -1)


def _carry_adjoint(c: _Chunks, n: int, joint: Float[Tensor, "B H V JK"]) -> Float[Tensor, "B H V JK"]:
    keep = c.keeps[:, :, n, -1, 0, None, None]
    if c.momenta is None:
        return keep * joint
    memory, surprise = joint.chunk(2, -1)
    reach, momentum = c.reach[:, :, n, -1, 0, None, None], c.momenta[:, :, n, -1, 0, None, None]
    return torch.cat((keep * memory, torch.addcmul(momentum * surprise, reach, memory)), -1)


def segments(x: AffineInputs) -> list[tuple[int, int]]:
    """Ranges of chunks to work on at once."""
    batch, heads, chunks, size, width = x.k.shape
    per_chunk = max(1, batch * heads * size * max(width, x.v.shape[-1]))
    step = max(1, min(chunks, SEGMENT_ELEMENTS // per_chunk))
    return [(start, min(start + step, chunks)) for start in range(0, chunks, step)]


def forward(
    x: AffineInputs, joint: Float[Tensor, "B H V JK"]
) -> tuple[Float[Tensor, "B H N C V"], Float[Tensor, "B H V JK"], tuple[Tensor, Tensor]]:
    """Reads after each token's write, the final joint memory, and what `backward` wants saved. Spec Eq. 4 to 6.

    Saved are the joint memory that each chunk began with, `[B, H, N, V, JK]`, and the updates u,
    `[B, H, N, C, V]`.
    """
    outputs, updates, starts = torch.empty_like(x.v), torch.empty_like(x.v), []
    for start, stop in segments(x):
        s = x.segment(start, stop)
        c = _chunks(s)
        values = s.write.unsqueeze(-1) * s.v
        erased = None
        if c.inverse is not None and s.erase is not None:
            values = c.inverse @ values
            erased = c.inverse @ _scaled(s.k, c.before * s.erase.unsqueeze(-1))
        left = _scaled(s.k, c.last)
        for n in range(stop - start):
            starts.append(joint)
            u = values[:, :, n] if erased is None else values[:, :, n] - erased[:, :, n] @ joint.mT
            updates[:, :, start + n] = u
            joint = _carry(c, n, joint) + u.mT @ left[:, :, n]
        began = torch.stack(starts[start:stop], 2)
        inside = c.reach[..., 1:, 1:] * (s.q @ s.k.mT)
        outputs[:, :, start:stop] = _scaled(s.q, c.reads) @ began.mT + inside @ updates[:, :, start:stop]
    return outputs, joint, (torch.stack(starts, 2), updates)


def backward(
    x: AffineInputs,
    saved: tuple[Float[Tensor, "B H N V JK"], Float[Tensor, "B H N C V"]],
    d_out: Float[Tensor, "B H N C V"],
    d_joint: Float[Tensor, "B H V JK"],
) -> tuple[AffineInputs, Float[Tensor, "B H V JK"]]:
    """Gradients by every input and by the joint memory that the first chunk began with."""
    grads = AffineInputs._make(None if one is None else torch.empty_like(one) for one in x)
    for start, stop in reversed(segments(x)):
        began, updates = (one[:, :, start:stop] for one in saved)
        part, d_joint = _segment_backward(x.segment(start, stop), began, updates, d_out[:, :, start:stop], d_joint)
        for whole, piece in zip(grads, part, strict=True):
            if whole is not None and piece is not None:
                whole[:, :, start:stop] = piece
    return grads, d_joint


def _segment_backward(
    s: AffineInputs, began: Tensor, updates: Tensor, dy: Tensor, d_joint: Tensor
) -> tuple[Sequence[Tensor | None], Tensor]:
    """One segment of the adjoint; names follow specs/forms/affine.md, Eq. 7 to 12."""
    c = _chunks(s)
    qk = s.q @ s.k.mT
    inside = c.reach[..., 1:, 1:]
    left, asked = _scaled(s.k, c.last), _scaled(s.q, c.reads)
    back, d_from_joint, d_from_out = None, left, (inside * qk).mT @ dy
    if c.inverse is not None and s.erase is not None:
        back = _scaled(s.k, c.before * s.erase.unsqueeze(-1))
        d_from_joint, d_from_out = c.inverse.mT @ left, c.inverse.mT @ d_from_out

    d_rights, d_ends = [], []
    fed = dy.mT @ asked
    for n in range(s.k.shape[2] - 1, -1, -1):
        d_ends.append(d_joint)
        d_right = d_from_out[:, :, n] + d_from_joint[:, :, n] @ d_joint.mT
        d_rights.append(d_right)
        d_joint = _carry_adjoint(c, n, d_joint) + fed[:, :, n]
        if back is not None:
            d_joint = d_joint - d_right.mT @ back[:, :, n]
    d_right, d_end = torch.stack(d_rights[::-1], 2), torch.stack(d_ends[::-1], 2)
    return _collect(s, c, (qk, updates, began), (dy, d_right, d_end)), d_joint


def _collect(
    s: AffineInputs,
    c: _Chunks,
    forward_side: tuple[Tensor, Tensor, Tensor],
    adjoint_side: tuple[Tensor, Tensor, Tensor],
) -> Sequence[Tensor | None]:
    """Gradients by the inputs once the adjoints of the solve and of the chunk ends are known. Spec Eq. 10, 11."""
    qk, updates, began = forward_side
    dy, d_right, d_end = adjoint_side
    parts = c.reads.shape[-1]
    began_parts, end_parts = began.chunk(parts, -1), d_end.chunk(parts, -1)
    inside = c.reach[..., 1:, 1:]

    d_inside = dy @ updates.mT  # upper entries are annulled by the triangular factors they meet
    d_qk = d_inside * inside
    d_reach = torch.zeros_like(c.reach)
    d_reach[..., 1:, 1:] = d_inside * qk
    d_keeps = torch.zeros_like(c.keeps)
    d_momenta = None if c.momenta is None else torch.zeros_like(c.momenta)
    starts_of = (d_keeps, d_reach)  # where the coefficient of M_0, and of S_0, in M_t lives: column 0

    dq = d_qk @ s.k
    dk = d_qk.mT @ s.q
    dv = s.write.unsqueeze(-1) * d_right
    d_write = (d_right * s.v).sum(-1)
    d_erase = None if s.erase is None else torch.zeros_like(s.erase)
    for j, (memory, end) in enumerate(zip(began_parts, end_parts, strict=True)):
        asked = dy @ memory
        dq = torch.addcmul(dq, c.reads[..., j, None], asked)
        starts_of[j][..., 1:, 0] += (asked * s.q).sum(-1)
        wrote = updates @ end
        dk = torch.addcmul(dk, c.last[..., j, None], wrote)
        d_last = (wrote * s.k).sum(-1)
        if j == 0:
            d_reach[..., -1, 1:] += d_last
            d_keeps[..., -1, 0] += (end * memory).sum((-1, -2))
        elif d_momenta is not None:
            d_momenta[..., -1, 1:] += d_last
            d_momenta[..., -1, 0] += (end * memory).sum((-1, -2))
            d_reach[..., -1, 0] += (end_parts[0] * memory).sum((-1, -2))
        if s.erase is not None and d_erase is not None:
            pulled = d_right @ memory
            seen = (pulled * s.k).sum(-1)  # equals d_right . (M k), row by row
            d_erase -= c.before[..., j] * seen
            starts_of[j][..., :-1, 0] -= s.erase * seen
            dk = torch.addcmul(dk, (s.erase * c.before[..., j]).unsqueeze(-1), pulled, value=-1)
    if s.erase is not None and d_erase is not None and c.kk is not None:
        earlier, d_solve = c.reach[..., :-1, 1:], -(d_right @ updates.mT)
        d_lower = d_solve * c.kk
        d_erase += (d_lower * earlier).sum(-1)
        d_reach[..., :-1, 1:] += d_lower * s.erase.unsqueeze(-1)
        d_kk = d_solve * earlier * s.erase.unsqueeze(-1)
        dk = dk + (d_kk + d_kk.mT) @ s.k
    d_keep, d_momentum, d_inject = _decay_adjoints(s, c, d_keeps, d_momenta, d_reach)
    return dq, dk, dv, d_keep, d_erase, d_write, d_momentum, d_inject


def _decay_adjoints(
    s: AffineInputs, c: _Chunks, d_keeps: Tensor, d_momenta: Tensor | None, d_reach: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients by keep, momentum and inject: reach = keeps diag(inject) momenta, taken apart. Spec Eq. 11, 12."""
    d_reach = d_reach.tril()
    keeps = c.keeps[..., 1:]
    if c.momenta is None or d_momenta is None:
        d_injected = d_reach[..., 1:]
        d_inject = None if s.inject is None else (d_injected * keeps).sum(-2)
        d_momentum = None
    else:
        momenta = c.momenta[..., 1:, :]
        d_injected = d_reach @ momenta.mT
        fed = keeps.mT @ d_reach
        d_inject = None if s.inject is None else (fed * momenta).sum(-1)
        d_momenta[..., 1:, :] += fed if s.inject is None else fed * s.inject.unsqueeze(-1)
        d_momentum = between_adjoint(c.momenta, d_momenta)
    d_keeps[..., 1:] += d_injected if s.inject is None else d_injected * s.inject.unsqueeze(-2)
    return between_adjoint(c.keeps, d_keeps), d_momentum, d_inject
