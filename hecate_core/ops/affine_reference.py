"""The op `affine` in plain torch: exact chunk form forward, analytical backward.

Rows are tokens, index 0 of the decay products is the start of the chunk. The joint memory
Z = [M, S] is `[V, 2K]` with momentum and `[V, K]` without, so one code path serves both.
Equations: specs/forms/affine.md. Everything inside a few chunks (a segment) is batched; only the
recurrence of Z runs chunk by chunk. Working segment by segment keeps peak memory near one segment.

Two kinds of rows read the memory: a query sees M_t, an erasing key M_{t-1}. Both stand in one matrix of
*readers*, [q; -erase k], so that one product serves both. Axes: N chunks, G batch times heads, C tokens of a
chunk, R readers (2C, or C where nothing is erased), J memories in Z. Chunks come first: a segment is then
one piece of storage.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from hecate_core.ops.decay import between, between_adjoint
from hecate_core.shapes import Float, Tensor

# Elements of one segment's widest matrix: enough to fill the cores, small enough to stay in cache.
SEGMENT_ELEMENTS = 1 << 17


def longest(*widths: int) -> int:
    """Tokens of a chunk beyond which more cost time.

    Work inside a chunk grows with its square, work between chunks with the size of the memory; measured.
    """
    return 32 if max(widths) <= 64 else 64


class AffineInputs(NamedTuple):
    """What the recurrence reads per token, cut into chunks; `momentum is None` means none."""

    q: Float[Tensor, "N B H C K"]
    k: Float[Tensor, "N B H C K"]
    v: Float[Tensor, "N B H C V"]
    keep: Float[Tensor, "N B H C"]
    erase: Float[Tensor, "N B H C"] | None
    write: Float[Tensor, "N B H C"]
    momentum: Float[Tensor, "N B H C"] | None
    inject: Float[Tensor, "N B H C"] | None

    def segment(self, start: int, stop: int) -> "AffineInputs":
        """The chunks from `start` to `stop`, each tensor in one piece `[N, G, C, ...]`."""
        return AffineInputs._make(None if one is None else _piece(one, start, stop) for one in self)


def _piece(one: Float[Tensor, "N B H C W"], start: int, stop: int) -> Float[Tensor, "S G C W"]:
    return one[start:stop].contiguous().flatten(1, 2)


class _Chunks(NamedTuple):
    """What both directions make of a segment's tokens."""

    keeps: Tensor  # C+1 C+1, products of keep
    momenta: Tensor | None  # C+1 C+1, products of momentum
    reach: Tensor  # C+1 C+1, coefficient of u_i k_i^T in M_t (column 0: of S_0, or of M_0 without momentum)
    readers: Tensor  # R K
    shares: Tensor  # R J, coefficients of Z_0 in the memory that each reader sees
    within: Tensor  # R C, coefficients of u_i k_i^T in it
    last: Tensor  # C J, coefficients of u_i k_i^T in Z_C

    def carry(self, n: int, joint: Tensor, *, into: Tensor, adjoint: bool = False) -> Tensor:
        """What chunk n leaves of Z_0: [b_C M + g_C S, h_C S]; the adjoint takes the transposed coefficients."""
        keep = self.keeps[n, :, -1, 0, None, None]
        if torch.compiler.is_compiling():  # what is written through `out` into a view of a view gets lost there
            return into.copy_(self._carried(n, joint, adjoint))  # hecate: allow CS-47 -- the caller's own workspace
        if self.momenta is None:
            return torch.mul(joint, keep, out=into)
        reach, momentum = self.reach[n, :, -1, 0, None, None], self.momenta[n, :, -1, 0, None, None]
        (memory, surprise), (new_memory, new_surprise) = joint.chunk(2, -1), into.chunk(2, -1)
        torch.mul(memory, keep, out=new_memory)
        torch.mul(surprise, momentum, out=new_surprise)
        if adjoint:
            new_surprise.addcmul_(reach, memory)
        else:
            new_memory.addcmul_(reach, surprise)
        return into

    def _carried(self, n: int, joint: Tensor, adjoint: bool) -> Tensor:
        """`carry` in a tensor of its own."""
        keep = self.keeps[n, :, -1, 0, None, None]
        if self.momenta is None:
            return joint * keep
        reach, momentum = self.reach[n, :, -1, 0, None, None], self.momenta[n, :, -1, 0, None, None]
        memory, surprise = joint.chunk(2, -1)
        if adjoint:
            return torch.cat((memory * keep, surprise * momentum + reach * memory), -1)
        return torch.cat((memory * keep + reach * surprise, surprise * momentum), -1)


def _chunks(x: AffineInputs) -> _Chunks:
    keeps, momenta = between(x.keep), None
    injected = keeps if x.inject is None else keeps * F.pad(x.inject, (1, 0), value=1.0).unsqueeze(-2)
    if x.momentum is None:
        reach, start, last = injected, keeps[..., :1], injected[..., -1, 1:, None]
    else:
        momenta = between(x.momentum)
        reach = injected[..., 1:] @ momenta[..., 1:, :]
        start = torch.stack((keeps[..., 0], reach[..., 0]), -1)
        last = torch.stack((reach[..., -1, 1:], momenta[..., -1, 1:]), -1)
    readers, shares, within = x.q, start[..., 1:, :], reach[..., 1:, 1:]
    if x.erase is not None:
        readers = torch.cat((readers, -x.erase.unsqueeze(-1) * x.k), -2)
        shares = torch.cat((shares, start[..., :-1, :]), -2)
        within = torch.cat((within, reach[..., :-1, 1:]), -2)
    return _Chunks(keeps, momenta, reach, readers, shares, within, last)


def _inverse(lower: Float[Tensor, "... C C"]) -> Float[Tensor, "... C C"]:
    """(I - L)^-1 for strictly lower L; the diagonal given is ignored."""
    size = lower.shape[-1]
    eye = torch.eye(size, dtype=lower.dtype, device=lower.device).expand_as(lower)
    inverse: Tensor = torch.linalg.solve_triangular(-lower, eye, upper=False, unitriangular=True)
    return inverse


def _scaled(rows: Float[Tensor, "... C K"], factors: Float[Tensor, "... C J"]) -> Float[Tensor, "... C J*K"]:
    """Rows times each factor column, side by side: [factor_0 * rows, factor_1 * rows]."""
    if factors.shape[-1] == 1:
        return factors * rows
    return (factors.unsqueeze(-1) * rows.unsqueeze(-2)).flatten(-2)


def _scaled_adjoint(d_scaled: Tensor, rows: Tensor, factors: Tensor, d_rows: Tensor) -> Float[Tensor, "... C J"]:
    """Gradients of a loss by what `_scaled` took: that by rows is added to `d_rows`, that by factors returned."""
    d_factors = []
    for j, part in enumerate(d_scaled.chunk(factors.shape[-1], -1)):
        d_rows.addcmul_(factors[..., j, None], part)
        d_factors.append((part * rows).sum(-1))
    return torch.stack(d_factors, -1)


def segments(x: AffineInputs) -> list[tuple[int, int]]:
    """Ranges of chunks to work on at once."""
    chunks, batch, heads, size, width = x.k.shape
    per_chunk = max(1, batch * heads * size * max(width, x.v.shape[-1]))
    step = max(1, min(chunks, SEGMENT_ELEMENTS // per_chunk))
    return [(start, min(start + step, chunks)) for start in range(0, chunks, step)]


def forward(
    x: AffineInputs, joint: Float[Tensor, "G V JK"]
) -> tuple[Float[Tensor, "N B H C V"], Float[Tensor, "G V JK"], tuple[Tensor, ...]]:
    """Reads after each token's write, the final joint memory, and what `backward` wants saved. Spec Eq. 4 to 6.

    Saved are the joint memory that each chunk began with and the last one, `[N + 1, G, V, JK]`, the updates u,
    `[N, G, C, V]`, and per segment the inverse of I + L where something is erased.
    """
    outputs, inverses = torch.empty_like(x.v), []
    updates = x.v.new_empty(len(x.v), len(joint), *x.v.shape[3:])
    starts, size = joint.new_empty(len(x.v) + 1, *joint.shape), x.v.shape[3]
    starts[0] = joint
    for start, stop in segments(x):
        s, u, began = x.segment(start, stop), updates[start:stop], starts[start:]
        c = _chunks(s)
        weighed = (c.readers @ s.k.mT).mul_(c.within)
        if s.erase is not None:
            inverses.append(_inverse(weighed[..., size:, :]))
        asking, left = _scaled(c.readers, c.shares), _scaled(s.k, c.last)
        answers = u.new_empty(*asking.shape[:3], u.shape[3])
        torch.mul(s.write.unsqueeze(-1), s.v, out=u)
        for n in range(stop - start):
            torch.bmm(asking[n], began[n].mT, out=answers[n])
            if s.erase is not None:
                u[n] = inverses[-1][n] @ (u[n] + answers[n, :, size:])
            c.carry(n, began[n], into=began[n + 1]).baddbmm_(u[n].mT, left[n])
        read = answers[..., :size, :] + weighed[..., :size, :] @ u
        outputs[start:stop] = read.unflatten(1, x.v.shape[1:3])
    return outputs, starts[-1].clone(), (starts, updates, *inverses)


def backward(
    x: AffineInputs, saved: tuple[Tensor, ...], d_out: Float[Tensor, "N B H C V"], d_joint: Float[Tensor, "G V JK"]
) -> tuple[AffineInputs, Float[Tensor, "G V JK"]]:
    """Gradients by every input and by the joint memory that the first chunk began with."""
    grads = AffineInputs._make(None if one is None else torch.empty_like(one) for one in x)
    starts, updates, *inverses = saved
    for start, stop in reversed(segments(x)):
        inverse = inverses.pop() if inverses else None
        of_segment = (starts[start:stop], updates[start:stop], inverse)
        dy = _piece(d_out, start, stop)
        part, d_joint = _segment_backward(x.segment(start, stop), of_segment, dy, d_joint)
        for whole, piece in zip(grads, part, strict=True):
            if whole is not None and piece is not None:
                whole[start:stop] = piece.unflatten(1, x.v.shape[1:3])
    return grads, d_joint


class _Adjoints(NamedTuple):
    """Gradients that a segment's serial part leaves behind."""

    answers: Tensor  # R V, by what the readers got: dY, and the solve's right sides
    values: Tensor  # C V, by write * v
    asking: Tensor  # R JK, by the readers as they ask Z_0
    left: Tensor  # C JK, by the keys as they stand in Z_C
    carry: Tensor  # by b_C, and with momentum by g_C, h_C


def _segment_backward(
    s: AffineInputs, saved: tuple[Tensor, Tensor, Tensor | None], dy: Tensor, d_joint: Tensor
) -> tuple[Sequence[Tensor | None], Tensor]:
    """One segment of the adjoint: the serial part (spec Eq. 7 to 9), then everything that follows from it."""
    began, u, inverse = saved
    c, size = _chunks(s), dy.shape[2]
    scores = c.readers @ s.k.mT
    asking, left = _scaled(c.readers, c.shares), _scaled(s.k, c.last)
    d_u = (scores[..., :size, :] * c.within[..., :size, :]).mT @ dy
    d_answers = dy if inverse is None else torch.cat((dy, d_u), -2)
    d_asking, d_left = torch.empty_like(asking), torch.empty_like(left)
    parts = c.shares.shape[-1]
    d_carry = dy.new_empty(*dy.shape[:2], 2 * parts - 1)
    for n in range(len(u) - 1, -1, -1):
        d_u[n].baddbmm_(left[n], d_joint.mT)
        if inverse is not None:
            d_answers[n, :, size:] = inverse[n].mT @ d_u[n]
        torch.bmm(d_answers[n], began[n], out=d_asking[n])
        torch.bmm(u[n], d_joint, out=d_left[n])
        d_carry[n] = _overlaps(d_joint, began[n], parts)
        before = c.carry(n, d_joint, into=torch.empty_like(d_joint), adjoint=True)
        d_joint = before.baddbmm_(d_answers[n].mT, asking[n])
    d_values = d_u if inverse is None else d_answers[..., size:, :]
    return _collect(s, c, (scores, u), _Adjoints(d_answers, d_values, d_asking, d_left, d_carry)), d_joint


def _overlaps(d_end: Tensor, began: Tensor, parts: int) -> Float[Tensor, "G P"]:
    """<dM_C, M_0> and with momentum <dM_C, S_0>, <dS_C, S_0>: the gradients by b_C, g_C, h_C."""
    ends, starts = d_end.chunk(parts, -1), began.chunk(parts, -1)
    pairs = ((0, 0),) if parts == 1 else ((0, 0), (0, 1), (1, 1))
    return torch.stack([(ends[i] * starts[j]).sum((-1, -2)) for i, j in pairs], -1)


def _collect(s: AffineInputs, c: _Chunks, forward_side: tuple[Tensor, Tensor], d: _Adjoints) -> Sequence[Tensor | None]:
    """Gradients by the inputs once the adjoints of the serial part are known. Spec Eq. 10, 11."""
    scores, u = forward_side
    size = u.shape[2]
    # Upper entries are never used: they meet a triangular factor below.
    d_scores = d.answers @ u.mT
    d_within = scores.mul_(d_scores)
    d_scores.mul_(c.within)
    d_readers, dk = d_scores @ s.k, d_scores.mT @ c.readers
    d_shares = _scaled_adjoint(d.asking, c.readers, c.shares, d_readers)
    d_last = _scaled_adjoint(d.left, s.k, c.last, dk)

    d_reach, d_start, d_erase = (
        torch.zeros_like(c.reach),
        d_shares.new_zeros(*c.reach.shape[:3], d_shares.shape[-1]),
        None,
    )
    d_reach[..., 1:, 1:] = d_within[..., :size, :]
    d_start[..., 1:, :] = d_shares[..., :size, :]
    if s.erase is not None:
        d_reach[..., :-1, 1:] += d_within[..., size:, :]
        d_start[..., :-1, :] += d_shares[..., size:, :]
        d_erasing = d_readers[..., size:, :]  # by -erase k
        d_erase = -(d_erasing * s.k).sum(-1)
        dk.addcmul_(s.erase.unsqueeze(-1), d_erasing, value=-1)
    d_reach[..., -1, 1:] += d_last[..., 0]
    d_keep, d_momentum, d_inject = _decay_adjoints(s, c, (d_reach, d_start, d_last), d.carry)
    d_write = (d.values * s.v).sum(-1)
    return (
        d_readers[..., :size, :],
        dk,
        s.write.unsqueeze(-1) * d.values,
        d_keep,
        d_erase,
        d_write,
        d_momentum,
        d_inject,
    )


def _decay_adjoints(
    s: AffineInputs, c: _Chunks, gathered: tuple[Tensor, Tensor, Tensor], d_carry: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients by keep, momentum and inject: reach = keeps diag(inject) momenta, taken apart. Spec Eq. 11, 12."""
    d_reach, d_start, d_last = gathered
    d_start[..., -1, :] += d_carry[..., : d_start.shape[-1]]
    inject = None if s.inject is None else s.inject.unsqueeze(-2)
    if c.momenta is None:
        d_reach[..., 0] = d_start[..., 0]
        d_inject = None if inject is None else (d_reach[..., 1:] * c.keeps[..., 1:]).sum(-2)
        if inject is not None:
            d_reach[..., 1:] *= inject
        return between_adjoint(c.keeps, d_reach), None, d_inject
    d_reach[..., 0] = d_start[..., 1]
    momenta = c.momenta[..., 1:, :]
    d_injected, fed = d_reach @ momenta.mT, c.keeps[..., 1:].mT @ d_reach
    d_inject = None if inject is None else (fed * momenta).sum(-1)
    if inject is not None:
        d_injected, fed = d_injected * inject, fed * inject.mT
    d_keeps, d_momenta = torch.cat((d_start[..., :1], d_injected), -1), F.pad(fed, (0, 0, 1, 0))
    d_momenta[..., -1, 1:] += d_last[..., 1]
    d_momenta[..., -1, 0] += d_carry[..., 2]
    return between_adjoint(c.keeps, d_keeps), between_adjoint(c.momenta, d_momenta), d_inject
