"""Causal attention over a sliding window, with persistent tokens that stay visible; O(T w) work.

Queries are cut into blocks; a block sees the persistent tokens, the previous block and itself, which covers
the window. State is the last window - 1 keys and values, so a text may be cut anywhere.
"""

import torch
import torch.nn.functional as F
from torch import nn

from hecate_core.errors import CompositionError
from hecate_core.records import State
from hecate_core.shapes import Bool, Float, Tensor

BLOCK = 64  # queries per block where the window is smaller
ROTARY_BASE = 10_000.0


class SlidingWindowAttention(nn.Module):
    """Token i attends to tokens j with i - window < j <= i and to `persistent` learned tokens.

    Persistent tokens pass the key and value projections, carry no position and do not advance it. Rotary positions
    count from the start of the context. Source: [2501.00663] Sec. 3.3 and Fig. 3b.
    """

    def __init__(self, width: int, heads: int, *, window: int = 64, persistent: int = 0, rotary: bool = True) -> None:
        super().__init__()
        if width % heads or window < 1 or persistent < 0:
            raise CompositionError(
                f"attention: width {width}, heads {heads}, window {window}, persistent {persistent}; "
                "expected heads to divide width, window >= 1, persistent >= 0"
            )
        self._heads, self._window, self._rotary = heads, window, rotary and (width // heads) % 2 == 0
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.persistent = nn.Parameter(torch.randn(persistent, width) * 0.02) if persistent else None

    def init_state(self, batch: int) -> State:
        """Empty tails, `[B, H, window - 1, D / H]` each; their length is fixed, position says how much is real."""
        weight = self.out.weight
        empty = weight.new_zeros(batch, self._heads, self._window - 1, weight.shape[0] // self._heads).detach()
        return State(past_k=empty, past_v=empty.clone())

    def forward(self, x: Float[Tensor, "B T D"], state: State) -> tuple[Float[Tensor, "B T D"], State]:
        """Attention for these tokens and the tails after them."""
        count = x.shape[1]
        if count == 0:
            return x, state
        q, k, v = (self._per_head(part) for part in self.project(x).chunk(3, -1))
        raw = q
        if self._rotary:
            q, k = _rotated(q, state.position), _rotated(k, state.position)
        keys, values = torch.cat((state.past_k.to(k.dtype), k), 2), torch.cat((state.past_v.to(v.dtype), v), 2)
        seen = self._attend(q, raw, keys, values, state.position)
        after = State(past_k=keys[:, :, count:], past_v=values[:, :, count:], position=state.position + count)
        y: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return y, after

    def _per_head(self, x: Tensor) -> Float[Tensor, "B H T W"]:
        heads: Tensor = x.unflatten(-1, (self._heads, -1)).transpose(1, 2)
        return heads

    def _attend(self, q: Tensor, raw: Tensor, keys: Tensor, values: Tensor, position: int) -> Float[Tensor, "B H T W"]:
        """Blocks of queries against their own and the previous block of keys."""
        count, size = q.shape[2], max(self._window - 1, min(q.shape[2], BLOCK))
        blocks = -(-count // size)
        left, right = size - (self._window - 1), blocks * size - count
        windows = [
            F.pad(one, (0, 0, left, right)).unfold(2, 2 * size, size).mT.flatten(0, 1) for one in (keys, values)
        ]  # [B*H, N, 2 size, W]
        k, v = windows
        q = self._blocks(q, right, size)
        allowed = _window_mask(blocks, size, self._window, position).to(q.device)
        if self.persistent is not None:
            _, fixed_k, fixed_v = (self._per_head(part) for part in self.project(self.persistent[None]).chunk(3, -1))
            shape = (q.shape[0] // self._heads, -1, -1, -1)
            fixed_k, fixed_v = (
                one.expand(shape).flatten(0, 1).unsqueeze(1).expand(-1, blocks, -1, -1) for one in (fixed_k, fixed_v)
            )
            if self._rotary:  # a second half of the dot product, in which nothing is rotated
                q = torch.cat((q, self._blocks(raw, right, size)), -1)
                k, fixed_k = F.pad(k, (0, k.shape[-1])), F.pad(fixed_k, (fixed_k.shape[-1], 0))
            k, v = torch.cat((fixed_k, k), 2), torch.cat((fixed_v, v), 2)
            allowed = F.pad(allowed, (len(self.persistent), 0), value=True)
        scale = values.shape[-1] ** -0.5
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)
        whole: Tensor = seen.flatten(1, 2)[:, :count].unflatten(0, (-1, self._heads))
        return whole

    def _blocks(self, q: Tensor, right: int, size: int) -> Float[Tensor, "BH N C W"]:
        cut: Tensor = F.pad(q, (0, 0, 0, right)).flatten(0, 1).unflatten(1, (-1, size))
        return cut


def _rotated(x: Float[Tensor, "B H T W"], position: int) -> Float[Tensor, "B H T W"]:
    """Rotary embedding by absolute position; angles in float64, since a stream may be long."""
    count, half = x.shape[2], x.shape[3] // 2
    steps = torch.arange(position, position + count, dtype=torch.float64, device=x.device)
    rates = ROTARY_BASE ** -(torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angles = steps.unsqueeze(-1) * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)


def _window_mask(blocks: int, size: int, window: int, position: int) -> Bool[Tensor, "N C 2C"]:
    """Which of 2 * size keys (previous block, own block) each query of each block may see."""
    query, key = torch.arange(size).view(-1, 1), torch.arange(2 * size).view(1, -1)
    distance = query + size - key
    inside = (distance >= 0) & (distance < window)
    start = position + (torch.arange(blocks).view(-1, 1, 1) - 1) * size
    return inside & (start + key >= 0)
