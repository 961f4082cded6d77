"""The op `affine_column` in plain torch: exact chunk form forward, analytical backward.

Rows are tokens; `ratios[d, t, i]` is the product of channel d's decays from token i+1 to t, index 0 being
the start of the chunk. Equations: specs/forms/affine-column.md. As in `affine_reference`, everything inside
a few chunks (a segment) is batched and only the memory's recurrence runs chunk by chunk.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from hecate_core.ops.decay import between, between_adjoint
from hecate_core.shapes import Float, Tensor

# Elements of one segment's ratios, the widest tensor here: enough to fill the cores, small enough for the cache.
SEGMENT_ELEMENTS = 1 << 18


class ColumnInputs(NamedTuple):
    """What the recurrence reads per token, cut into chunks; `erased` is erase * k, None where nothing is erased."""

    q: Float[Tensor, "B H N C K"]
    k: Float[Tensor, "B H N C K"]
    v: Float[Tensor, "B H N C V"]
    keep: Float[Tensor, "B H N C K"]
    erased: Float[Tensor, "B H N C K"] | None
    write: Float[Tensor, "B H N C"]

    def segment(self, start: int, stop: int) -> "ColumnInputs":
        """The chunks from `start` to `stop`."""
        return ColumnInputs._make(None if one is None else one[:, :, start:stop] for one in self)


class _Chunks(NamedTuple):
    """What both directions recompute for a segment."""

    ratios: Tensor  # K C+1 C+1, products of keep
    scores: Tensor  # C C, q_t . k_i seen through the decay in between; lower triangular
    inverse: Tensor | None  # C C, (I + L)^-1; None where nothing is erased
    reads: Tensor  # C K, what is left of the first memory in M_t
    before: Tensor  # C K, the same one token earlier
    last: Tensor  # C K, what is left of k_i in the memory after the chunk


def _chunks(x: ColumnInputs) -> _Chunks:
    ratios = between(x.keep.mT)
    weighed = ratios[..., 1:] * x.k.mT.unsqueeze(-2)  # K C+1 C
    inverse = None
    if x.erased is not None:
        lower = _through(x.erased, weighed[..., :-1, :])
        eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
        inverse = torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True)
    start = ratios[..., 0].mT
    scores = _through(x.q, weighed[..., 1:, :])
    return _Chunks(ratios, scores, inverse, start[..., 1:, :], start[..., :-1, :], ratios[..., -1, 1:].mT)


def _through(rows: Float[Tensor, "... C K"], weighed: Float[Tensor, "... K C C"]) -> Float[Tensor, "... C C"]:
    """sum over channels of rows_td weighed_dti."""
    return (rows.mT.unsqueeze(-1) * weighed).sum(-3)


def segments(x: ColumnInputs) -> list[tuple[int, int]]:
    """Ranges of chunks to work on at once."""
    batch, heads, chunks, size, width = x.k.shape
    per_chunk = max(1, batch * heads * (size + 1) ** 2 * width)
    step = max(1, min(chunks, SEGMENT_ELEMENTS // per_chunk))
    return [(start, min(start + step, chunks)) for start in range(0, chunks, step)]


def forward(
    x: ColumnInputs, memory: Float[Tensor, "B H V K"]
) -> tuple[Float[Tensor, "B H N C V"], Float[Tensor, "B H V K"], tuple[Tensor, Tensor]]:
    """Reads after each token's write, the final memory, and what `backward` wants saved. Spec Eq. 3 to 5.

    Saved are the memory that each chunk began with, `[B, H, N, V, K]`, and the updates u, `[B, H, N, C, V]`.
    """
    outputs, updates, starts = torch.empty_like(x.v), torch.empty_like(x.v), []
    for start, stop in segments(x):
        s = x.segment(start, stop)
        c = _chunks(s)
        values = s.write.unsqueeze(-1) * s.v
        erased = None
        if c.inverse is not None and s.erased is not None:
            values, erased = c.inverse @ values, c.inverse @ (s.erased * c.before)
        left, carry = s.k * c.last, c.reads[..., -1:, :]
        for n in range(stop - start):
            starts.append(memory)
            u = values[:, :, n] if erased is None else values[:, :, n] - erased[:, :, n] @ memory.mT
            updates[:, :, start + n] = u
            memory = carry[:, :, n] * memory + u.mT @ left[:, :, n]
        began = torch.stack(starts[start:stop], 2)
        outputs[:, :, start:stop] = (s.q * c.reads) @ began.mT + c.scores @ updates[:, :, start:stop]
    return outputs, memory, (torch.stack(starts, 2), updates)


def backward(
    x: ColumnInputs,
    saved: tuple[Float[Tensor, "B H N V K"], Float[Tensor, "B H N C V"]],
    d_out: Float[Tensor, "B H N C V"],
    d_memory: Float[Tensor, "B H V K"],
) -> tuple[ColumnInputs, Float[Tensor, "B H V K"]]:
    """Gradients by every input and by the memory that the first chunk began with."""
    grads = ColumnInputs._make(None if one is None else torch.empty_like(one) for one in x)
    for start, stop in reversed(segments(x)):
        began, updates = (one[:, :, start:stop] for one in saved)
        part, d_memory = _segment_backward(x.segment(start, stop), began, updates, d_out[:, :, start:stop], d_memory)
        for whole, piece in zip(grads, part, strict=True):
            if whole is not None and piece is not None:
                whole[:, :, start:stop] = piece
    return grads, d_memory


def _segment_backward(
    s: ColumnInputs, began: Tensor, updates: Tensor, dy: Tensor, d_memory: Tensor
) -> tuple[Sequence[Tensor | None], Tensor]:
    """One segment of the adjoint: the serial part (spec Eq. 6 to 8), then everything that follows from it."""
    c = _chunks(s)
    left, asked, carry = s.k * c.last, s.q * c.reads, c.reads[..., -1:, :]
    back, d_from_memory, d_from_out = None, left, c.scores.mT @ dy
    if c.inverse is not None and s.erased is not None:
        back = s.erased * c.before
        d_from_memory, d_from_out = c.inverse.mT @ left, c.inverse.mT @ d_from_out
    d_rights, d_ends = [], []
    fed = dy.mT @ asked
    for n in range(s.k.shape[2] - 1, -1, -1):
        d_ends.append(d_memory)
        d_right = d_from_out[:, :, n] + d_from_memory[:, :, n] @ d_memory.mT
        d_rights.append(d_right)
        d_memory = carry[:, :, n] * d_memory + fed[:, :, n]
        if back is not None:
            d_memory = d_memory - d_right.mT @ back[:, :, n]
    d_right, d_end = torch.stack(d_rights[::-1], 2), torch.stack(d_ends[::-1], 2)
    return _collect(s, c, (updates, began), (dy, d_right, d_end)), d_memory


def _collect(
    s: ColumnInputs,
    c: _Chunks,
    forward_side: tuple[Tensor, Tensor],
    adjoint_side: tuple[Tensor, Tensor, Tensor],
) -> Sequence[Tensor | None]:
    """Gradients by the inputs once the adjoints of the solve and of the chunk ends are known. Spec Eq. 9, 10."""
    updates, began = forward_side
    dy, d_right, d_end = adjoint_side
    inside = c.ratios[..., 1:, 1:]
    d_ratios = torch.zeros_like(c.ratios)

    d_scores = (dy @ updates.mT).tril().unsqueeze(-3)  # 1 C C, beside the channels
    asked, wrote = dy @ began, updates @ d_end
    weighed = d_scores * inside
    dq = torch.addcmul((weighed * s.k.mT.unsqueeze(-2)).sum(-1).mT, c.reads, asked)
    dk = torch.addcmul((weighed * s.q.mT.unsqueeze(-1)).sum(-2).mT, c.last, wrote)
    pairs = s.q.mT.unsqueeze(-1) * s.k.mT.unsqueeze(-2)
    d_ratios[..., 1:, 1:] = d_scores * pairs
    d_ratios[..., 1:, 0] += (asked * s.q).mT
    d_ratios[..., -1, 1:] += (wrote * s.k).mT
    d_ratios[..., -1, 0] += (d_end * began).sum(-2)

    d_erased = None
    if s.erased is not None:
        earlier = c.ratios[..., :-1, 1:]
        d_lower = -(d_right @ updates.mT).tril(-1).unsqueeze(-3)
        weighed, seen = d_lower * earlier, d_right @ began
        d_erased = torch.addcmul((weighed * s.k.mT.unsqueeze(-2)).sum(-1).mT, c.before, seen, value=-1)
        dk = dk + (weighed * s.erased.mT.unsqueeze(-1)).sum(-2).mT
        d_ratios[..., :-1, 1:] += d_lower * (s.erased.mT.unsqueeze(-1) * s.k.mT.unsqueeze(-2))
        d_ratios[..., :-1, 0] -= (s.erased * seen).mT
    d_keep = between_adjoint(c.ratios, d_ratios).mT
    dv = s.write.unsqueeze(-1) * d_right
    return dq, dk, dv, d_keep, d_erased, (d_right * s.v).sum(-1)
