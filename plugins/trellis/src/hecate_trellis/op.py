"""The op `trellis`: one store of slots written and read over a whole sequence, in plain torch; kernels: `kernels.py`.

Spec: specs/rules/trellis.md, Eq. 1 and section Gradient (VJP). The rule calls it for keys and for values.
"""

from typing import NamedTuple

import torch

from hecate_core.api import Bool, Float, Tensor
from hecate_trellis.maps import MAPS, SlotMap

CHUNK = 32  # tokens whose stores the backward holds at once
SIDES = ("slots", "entries")


class TrellisTokens(NamedTuple):
    """All per-token tensors of the op; `due` is False where a token changes nothing.

    S <- retain S - write u w^T towards `code`; then a query over entries is answered by slots, S q, or one over slots
    by entries, S^T q.
    """

    q: Float[Tensor, "B H T N"] | Float[Tensor, "B H T M"]
    w: Float[Tensor, "B H T N"]
    code: Float[Tensor, "B H T M"]
    retain: Float[Tensor, "B H T"]
    write: Float[Tensor, "B H T"]
    due: Bool[Tensor, "B H T"] | None


class _Token(NamedTuple):
    """The tokens at one time, gates with the axes of a vector."""

    q: Tensor
    w: Float[Tensor, "B H N"]
    code: Float[Tensor, "B H M"]
    retain: Float[Tensor, "B H 1"]
    write: Float[Tensor, "B H 1"]
    due: Bool[Tensor, "B H 1 1"] | None


def option_of(phi: str, side: str) -> str:
    """How the op is asked for a map and for what answers: "silu, slots"."""
    return f"{phi}, {side}"


def options_in(option: str) -> tuple[str, bool]:
    """The name of the map, and whether entries answer."""
    phi, side = option.split(", ")
    return phi, side == "entries"


class Reference:
    """The op in plain torch, on any device; the meaning that kernels are checked against.

    The option is made by `option_of`. The backward goes through each chunk once more.
    """

    op = "trellis"
    backend = "reference"

    def forward(self, tokens: TrellisTokens, state: Tensor, option: str) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """See `SequencePair.forward`; saves the store at the start of every chunk."""
        phi, turned = options_in(option)
        reads, starts = [], []
        for t in range(tokens.w.shape[2]):
            if t % CHUNK == 0:
                starts.append(state)
            token = _at(tokens, t)
            state = _written(MAPS[phi], token, state)
            reads.append(_row(token.q, state if turned else state.mT))
        return torch.stack(reads, 2), state, tuple(starts)

    def backward(
        self, tokens: TrellisTokens, saved: tuple[Tensor, ...], option: str, d_out: Tensor, d_end: Tensor
    ) -> tuple[TrellisTokens, Tensor]:
        """See `SequencePair.backward`."""
        phi, turned = options_in(option)
        count, d_store = tokens.w.shape[2], d_end
        grads: list[list[Tensor]] = [[] for _ in range(5)]
        for n in range(len(saved) - 1, -1, -1):
            held = [saved[n]]
            times = range(n * CHUNK, min(count, (n + 1) * CHUNK))
            for t in times:
                held.append(_written(MAPS[phi], _at(tokens, t), held[-1]))
            for t in reversed(times):
                token, dy, after = _at(tokens, t), d_out[:, :, t], held[t - times.start + 1]
                dq = _row(dy, after.mT if turned else after)
                first, second = (token.q, dy) if turned else (dy, token.q)
                d_store = d_store + first.unsqueeze(-1) * second.unsqueeze(-2)
                d_store, made = _back(MAPS[phi], held[t - times.start], token, d_store)
                for row, one in zip(grads, (dq, *made), strict=True):
                    row.append(one)
        dq, dw, d_code, d_retain, d_write = (torch.stack(row[::-1], 2) for row in grads)
        return TrellisTokens(dq, dw, d_code, d_retain.squeeze(-1), d_write.squeeze(-1), None), d_store


def _at(tokens: TrellisTokens, t: int) -> _Token:
    return _Token(
        tokens.q[:, :, t],
        tokens.w[:, :, t],
        tokens.code[:, :, t],
        tokens.retain[:, :, t, None],
        tokens.write[:, :, t, None],
        None if tokens.due is None else tokens.due[:, :, t, None, None],
    )


def _row(x: Float[Tensor, "B H N"], matrix: Float[Tensor, "B H N L"]) -> Float[Tensor, "B H L"]:
    return (x.unsqueeze(-2) @ matrix).squeeze(-2)


def _written(phi: SlotMap, token: _Token, store: Float[Tensor, "B H M N"]) -> Float[Tensor, "B H M N"]:
    """Eq. 1."""
    z = _row(token.w, store.mT)
    u = phi.pullback(z, phi.value(z) - token.code)
    new = token.retain.unsqueeze(-1) * store - (token.write * u).unsqueeze(-1) * token.w.unsqueeze(-2)
    return new if token.due is None else torch.where(token.due, new, store)


def _back(
    phi: SlotMap, store: Tensor, token: _Token, d_new: Float[Tensor, "B H M N"]
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Adjoints of the store before the token, and of w, code, retain, write: section Gradient (VJP)."""
    z = _row(token.w, store.mT)
    error = phi.value(z) - token.code
    u = phi.pullback(z, error)
    by_u = _row(token.w, d_new.mT)
    du = -token.write * by_u
    moved = phi.push(z, du)
    dz = phi.pullback(z, moved) + phi.bend(z, error, du)
    dw = _row(dz, store) - token.write * _row(u, d_new)
    d_retain, d_write = (d_new * store).sum((-2, -1)).unsqueeze(-1), -(u * by_u).sum(-1, keepdim=True)
    ds = token.retain.unsqueeze(-1) * d_new + dz.unsqueeze(-1) * token.w.unsqueeze(-2)
    if token.due is None:
        return ds, (dw, -moved, d_retain, d_write)
    due = token.due.squeeze(-1)
    dw, d_code, d_retain, d_write = (torch.where(due, one, 0.0) for one in (dw, -moved, d_retain, d_write))
    return torch.where(token.due, ds, d_new), (dw, d_code, d_retain, d_write)
