"""Causal attention over a sliding window, with persistent tokens that stay visible; O(T w) work.

Queries are cut into blocks of at least a window; a block sees the persistent tokens, the window - 1 keys before it
and its own. State is the last window - 1 keys and values and which of them are of the present document, so a text may
be cut anywhere.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hecate_core.errors import CompositionError
from hecate_core.records import State
from hecate_core.shapes import Bool, Float, Int, Tensor

BLOCK = 64  # queries per block where the window is smaller
ROTARY_BASE = 10_000.0


class SlidingWindowAttention(nn.Module):
    """Token i attends to tokens j with i - window < j <= i and to `persistent` learned tokens.

    Heads come back side by side; the output projection is the mixer's. Persistent tokens pass the key and value
    projections, carry no position and do not advance it. Rotary positions count from the start of the context.
    Source: [2501.00663] Sec. 3.3 and Fig. 3b.
    """

    def __init__(self, width: int, heads: int, *, window: int = 64, persistent: int = 0, rotary: bool = True) -> None:
        super().__init__()
        if width % heads or window < 1 or persistent < 0:
            raise CompositionError(
                f"attention: width {width}, heads {heads}, window {window}, persistent {persistent}; "
                "expected heads to divide width, window >= 1, persistent >= 0"
            )
        self._heads, self._window, self._rotary = heads, window, rotary
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.persistent = nn.Parameter(torch.randn(persistent, width) * 0.02) if persistent else None

    def init_state(self, batch: int, dtype: torch.dtype | None = None, device: torch.device | None = None) -> State:
        """Empty tails, `[B, H, window - 1, D / H]` each, and `past_own` `[B, window - 1]`: 1 where it may be seen."""
        weight = self.project.weight
        shape = (batch, self._heads, self._window - 1, weight.shape[1] // self._heads)
        past_k, past_v = (weight.new_zeros(shape, dtype=dtype, device=device).detach() for _ in range(2))
        past_own = torch.zeros(batch, self._window - 1, dtype=torch.int8, device=past_k.device)
        return State(past_k=past_k, past_v=past_v, past_own=past_own)

    def forward(
        self, x: Float[Tensor, "B T D"], state: State | None = None, starts: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Attention for these tokens and the tails after them, in the tails' own dtype; None is a fresh state.

        Where `starts` is True a new document begins, and nothing before it is seen but the persistent tokens.
        """
        count = x.shape[1]
        state = self.init_state(x.shape[0]) if state is None else state
        if count == 0:
            return x, state
        q, k, v = (self._per_head(part) for part in self.project(x).chunk(3, -1))
        raw = q
        if self._rotary:
            q, k = _rotated(q, state.position), _rotated(k, state.position)
        keys, values = torch.cat((state.past_k.to(k.dtype), k), 2), torch.cat((state.past_v.to(v.dtype), v), 2)
        documents = _documents(state.past_own, count, starts)
        seen = self._attend(q, raw, keys, values, documents)
        after = State(
            past_k=_tail(keys, count, state.past_k.dtype),
            past_v=_tail(values, count, state.past_v.dtype),
            past_own=(documents[:, count:] == documents[:, -1:]).to(state.past_own.dtype),
            position=state.position + count,
        )
        return seen.transpose(1, 2).flatten(2), after

    def _per_head(self, x: Tensor) -> Float[Tensor, "B H T W"]:
        heads: Tensor = x.unflatten(-1, (self._heads, -1)).transpose(1, 2)
        return heads

    def _attend(
        self, q: Tensor, raw: Tensor, keys: Tensor, values: Tensor, documents: Int[Tensor, "B L"]
    ) -> Float[Tensor, "B H T W"]:
        """Blocks of queries against the keys of one window before the block and its own."""
        count, size = q.shape[2], min(q.shape[2], max(self._window, BLOCK))
        blocks = -(-count // size)
        right = blocks * size - count
        k, v = (_spans(F.pad(one, (0, 0, 0, right)), blocks, size) for one in (keys, values))
        q = self._blocks(q, right, size)
        allowed = _window_mask(F.pad(documents, (0, right), mode="constant", value=-1), blocks, size, self._window)
        allowed = allowed.repeat_interleave(self._heads, 0)
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


def _tail(keys: Float[Tensor, "B H L W"], count: int, dtype: torch.dtype) -> Float[Tensor, "B H L W"]:
    """All but the first `count`, copied so that the state does not hold the whole call's storage."""
    return keys[:, :, count:].to(dtype).clone(memory_format=torch.contiguous_format)


def _spans(keys: Float[Tensor, "B H L W"], blocks: int, size: int) -> Float[Tensor, "BH N S W"]:
    """What each block may see: the window - 1 keys before it, then its own; copies, whose gradients are slices."""
    keys = keys.flatten(0, 1)
    if blocks == 1:
        return keys.unsqueeze(1)
    before = keys.shape[1] - blocks * size
    own, earlier = (keys[:, start : start + blocks * size].unflatten(1, (-1, size)) for start in (before, 0))
    return torch.cat((earlier[:, :, :before], own), 2)


def _rotated(x: Float[Tensor, "B H T W"], position: int) -> Float[Tensor, "B H T W"]:
    """Rotary embedding by absolute position; angles in float64, since a stream may be long.

    Of an odd width the last channel is not rotated.
    """
    count, half = x.shape[2], x.shape[3] // 2
    steps = torch.arange(position, position + count, dtype=torch.float64, device=x.device)
    rates = ROTARY_BASE ** -(torch.arange(half, dtype=torch.float64, device=x.device) / max(half, 1))
    angles = steps.unsqueeze(-1) * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    cos = torch.cat((cos, cos, cos.new_ones(count, x.shape[3] - 2 * half)), -1)
    if torch.is_grad_enabled() and x.requires_grad:
        turned: Tensor = _Rotation.apply(x, cos, sin)
        return turned
    return _turned(x, cos, sin)


def _turned(x: Tensor, cos: Float[Tensor, "T W"], sin: Float[Tensor, "T H"]) -> Tensor:
    """Channel c turned against channel c + H, the half of the width; cosines of both halves, sines of the first."""
    half, turned = sin.shape[-1], x * cos
    turned[..., :half].addcmul_(x[..., half : 2 * half], sin, value=-1)
    turned[..., half : 2 * half].addcmul_(x[..., :half], sin)
    return turned


class _Rotation(torch.autograd.Function):
    """Backward turns the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(dy, cos, -sin), None, None


def _documents(past_own: Int[Tensor, "B P"], count: int, starts: Bool[Tensor, "B T"] | None) -> Int[Tensor, "B L"]:
    """The document of every key, counted from the one that the call goes on with, which is 0; -1 is none of these."""
    before = past_own.int() - 1
    if starts is None:
        return F.pad(before, (0, count))
    return torch.cat((before, starts.cumsum(1, dtype=before.dtype)), 1)


def _window_mask(documents: Int[Tensor, "B L"], blocks: int, size: int, window: int) -> Bool[Tensor, "B N C S"]:
    """Which of the window - 1 keys before a block and of its own each query may see."""
    query = torch.arange(size, device=documents.device).view(-1, 1)
    distance = query + window - 1 - torch.arange(window - 1 + size, device=documents.device)
    of_key = documents.unfold(1, window - 1 + size, size).unsqueeze(2)
    of_query = documents[:, window - 1 :].unflatten(1, (blocks, size)).unsqueeze(3)
    seen: Tensor = (distance >= 0) & (distance < window) & (of_key == of_query)
    return seen
