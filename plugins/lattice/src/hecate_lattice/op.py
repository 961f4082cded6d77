"""The op `lattice`: the rule's own step over a whole sequence, in plain torch; kernels: `kernels.py`.

Spec: specs/rules/lattice.md, Eq. 1 to 5 and section Gradient (VJP).
"""

from typing import NamedTuple

import torch

from hecate_core.api import Bool, Float, Tensor
from hecate_lattice.losses import LOSSES

CHUNK = 32  # tokens whose slots the backward holds at once
SHORTEST = 1e-12  # what a slot's length is divided by at least


class LatticeTokens(NamedTuple):
    """All per-token tensors of the op; `due` is False where a token changes nothing."""

    q: Float[Tensor, "B H T M"]
    k: Float[Tensor, "B H T M"]
    v: Float[Tensor, "B H T V"]
    write: Float[Tensor, "B H T"]
    retain: Float[Tensor, "B H T"] | None
    due: Bool[Tensor, "B H T"] | None


class _Turn(NamedTuple):
    """One step: direction, code, s.w, length of what comes before the retraction, slots after it."""

    w: Float[Tensor, "B H V"]
    code: Float[Tensor, "B H M"]
    along: Float[Tensor, "B H M"]
    length: Float[Tensor, "B H M"]
    slots: Float[Tensor, "B H V M"]


class _Token(NamedTuple):
    """The tokens at one time, gates with the axes of a slot code."""

    q: Float[Tensor, "B H M"]
    k: Float[Tensor, "B H M"]
    v: Float[Tensor, "B H V"]
    write: Float[Tensor, "B H 1"]
    retain: Float[Tensor, "B H 1"]
    due: Bool[Tensor, "B H 1 1"] | None


class Reference:
    """The op in plain torch, on any device; the meaning that kernels are checked against.

    The loss is the option "decode", "encode" or "similarity". The backward goes through each chunk once more.
    """

    op = "lattice"
    backend = "reference"

    def forward(self, tokens: LatticeTokens, state: Tensor, option: str) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """See `SequencePair.forward`; saves the slots at the start of every chunk."""
        reads, starts = [], []
        for t in range(tokens.k.shape[2]):
            if t % CHUNK == 0:
                starts.append(state)
            token = _at(tokens, t)
            state = _after(token, state, _turn(option, state, token))
            reads.append(_row(token.q, state.mT))
        return torch.stack(reads, 2), state, tuple(starts)

    def backward(
        self, tokens: LatticeTokens, saved: tuple[Tensor, ...], option: str, d_out: Tensor, d_end: Tensor
    ) -> tuple[LatticeTokens, Tensor]:
        """See `SequencePair.backward`."""
        count, d_slots = tokens.k.shape[2], d_end
        grads: list[list[Tensor]] = [[] for _ in range(5)]
        for n in range(len(saved) - 1, -1, -1):
            held = [saved[n]]
            times = range(n * CHUNK, min(count, (n + 1) * CHUNK))
            turns = []
            for t in times:
                turns.append(_turn(option, held[-1], _at(tokens, t)))
                held.append(_after(_at(tokens, t), held[-1], turns[-1]))
            for t in reversed(times):
                i = t - times.start
                d_slots, made = _back(option, held[i], held[i + 1], turns[i], _at(tokens, t), d_out[:, :, t], d_slots)
                for row, one in zip(grads, made, strict=True):
                    row.append(one)
        dq, dk, dv, d_write, d_retain = (torch.stack(row[::-1], 2) for row in grads)
        by_retain = None if tokens.retain is None else d_retain.squeeze(-1)
        return LatticeTokens(dq, dk, dv, d_write.squeeze(-1), by_retain, None), d_slots


def _at(tokens: LatticeTokens, t: int) -> _Token:
    write = tokens.write[:, :, t, None]
    return _Token(
        tokens.q[:, :, t],
        tokens.k[:, :, t],
        tokens.v[:, :, t],
        write,
        torch.ones_like(write) if tokens.retain is None else tokens.retain[:, :, t, None],
        None if tokens.due is None else tokens.due[:, :, t, None, None],
    )


def _row(x: Float[Tensor, "B H N"], matrix: Float[Tensor, "B H N L"]) -> Float[Tensor, "B H L"]:
    return (x.unsqueeze(-2) @ matrix).squeeze(-2)


def _turn(option: str, s: Float[Tensor, "B H V M"], token: _Token) -> _Turn:
    """Eq. 1 to 5."""
    code, w = (one.squeeze(2) for one in LOSSES[option](s, token.k.unsqueeze(2), token.v.unsqueeze(2)))
    along = _row(w, s)
    go = token.write * code
    moved = (token.retain - go * along).unsqueeze(-2) * s + w.unsqueeze(-1) * go.unsqueeze(-2)
    length = moved.norm(dim=-2)
    return _Turn(w, code, along, length, moved / length.clamp(min=SHORTEST).unsqueeze(-2))


def _after(token: _Token, before: Tensor, turn: _Turn) -> Float[Tensor, "B H V M"]:
    return turn.slots if token.due is None else torch.where(token.due, turn.slots, before)


def _back(
    option: str, s: Tensor, after: Tensor, turn: _Turn, token: _Token, dy: Float[Tensor, "B H V"], d_after: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Adjoints of the slots before the token, and of q, k, v, write, retain: section Gradient (VJP), line by line."""
    w, go = turn.w, token.write * turn.code
    dq = _row(dy, after)
    d_after = d_after + dy.unsqueeze(-1) * token.q.unsqueeze(-2)
    outward = torch.where(turn.length > SHORTEST, (turn.slots * d_after).sum(-2), 0.0)
    dn = (d_after - turn.slots * outward.unsqueeze(-2)) / turn.length.clamp(min=SHORTEST).unsqueeze(-2)
    by_slot = (s * dn).sum(-2)
    d_go = _row(w, dn) - turn.along * by_slot
    d_code = token.write * d_go
    dv = _row(go, (dn - s * by_slot.unsqueeze(-2)).mT)
    dk = d_code
    ds = (token.retain - go * turn.along).unsqueeze(-2) * dn - w.unsqueeze(-1) * (go * by_slot).unsqueeze(-2)
    if option == "decode":
        dk = d_code - _row(dv, s)
        ds = ds - dv.unsqueeze(-1) * token.k.unsqueeze(-2)
    elif option == "encode":
        dv = dv - _row(d_code, s.mT)
        ds = ds - w.unsqueeze(-1) * d_code.unsqueeze(-2)
    gates = ((turn.code * d_go).sum(-1, keepdim=True), by_slot.sum(-1, keepdim=True))
    if token.due is None:
        return ds, (dq, dk, dv, *gates)
    due = token.due.squeeze(-1)
    dk, dv, d_write, d_retain = (torch.where(due, one, 0.0) for one in (dk, dv, *gates))
    return torch.where(token.due, ds, d_after), (dq, dk, dv, d_write, d_retain)
