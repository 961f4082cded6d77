"""The last c keys and values as seen by every token, and what of them a state must carry.

Only tokens that may write enter a window, so a resting token is as if it had not been there.
"""

import torch

from hecate_core.api import Float, State, Tensor, Tokens


def look_back(state: State, tokens: Tokens, write: Tensor | None, size: int) -> tuple[Tokens, State]:
    """The tokens with `seen_k`, `seen_v` `[B, H, T, c, width]` and `share` `[B, H, T, c]`, newest first; the new tail.

    `share` is the gate `window`, 0 where the sequence had not begun. State: `window`, a record of k, v and
    `filled` (1 where a place holds a token), oldest first.
    """
    if size == 1:
        return tokens.replace(seen_k=tokens.k.unsqueeze(3), seen_v=tokens.v.unsqueeze(3), share=tokens.window), state
    tail, count = state.window, tokens.k.shape[2]
    filled = torch.cat((tail.filled, torch.ones_like(tokens.k[..., 0])), 2)
    rows = {"k": torch.cat((tail.k, tokens.k), 2), "v": torch.cat((tail.v, tokens.v), 2)}
    index, last = _places(write, tokens.k, size)
    wide = index.flatten(1)[:, None, :]
    share = torch.take_along_dim(filled, wide, 2).unflatten(2, (count, size))
    seen = {
        f"seen_{name}": torch.take_along_dim(one, wide.unsqueeze(-1), 2).unflatten(2, (count, size))
        for name, one in rows.items()
    }
    kept = {name: torch.take_along_dim(one, last[:, None, :, None], 2) for name, one in rows.items()}
    window = State.of({**kept, "filled": torch.take_along_dim(filled, last[:, None, :], 2)})
    return tokens.replace(**seen, share=share * tokens.window), state.replace(window=window)


def _places(write: Tensor | None, like: Float[Tensor, "B H T K"], size: int) -> tuple[Tensor, Tensor]:
    """Where in tail and tokens, joined, each token's window lies `[B, T, c]`, and the next tail `[B, c - 1]`."""
    batch, count, before = like.shape[0], like.shape[2], size - 1
    if write is None:
        write = torch.ones(batch, count, dtype=torch.bool, device=like.device)
    due = torch.cat((write.new_ones(batch, before), write), 1)
    order = (~due).to(torch.int8).argsort(dim=1, stable=True)  # due places first, in order
    rank = due.long().cumsum(1)  # due places so far
    back = torch.arange(size, device=like.device)
    index = (rank[:, before:, None] - 1 - back).clamp(min=0).flatten(1)
    last = rank[:, -1:] - before + torch.arange(before, device=like.device)
    return order.gather(1, index).unflatten(1, (count, size)), order.gather(1, last)
