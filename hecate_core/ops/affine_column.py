"""The op `affine_column`: `affine` with a decay of its own for every key channel (column of the memory).

    u_t = write_t v_t - M_{t-1} (erase_t * k_t)
    M_t = M_{t-1} diag(keep_t) + u_t k_t^T
    y_t = M_t q_t

`keep` and `erase` have one value per channel: an error taken after the decay erases along keep * k, not along
k (specs/forms/affine-column.md). A token with keep 1, erase 0, write 0 changes nothing.
"""

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F

from hecate_core.ops import affine_column_reference as reference
from hecate_core.ops.affine_column_reference import ColumnInputs
from hecate_core.ops.first_order import first_order
from hecate_core.ops.serving import operands, settled
from hecate_core.shapes import Bool, Float, Tensor

# Ratios are formed per channel and pair of tokens, so work inside a chunk grows with its square times K; measured
# fastest at 16 of 8 ... 64. A larger chunk is cut into pieces of this size, which changes nothing but speed.
LONGEST = 16


class ColumnTokens(NamedTuple):
    """All per-token tensors of the op, in the order in which every implementation takes them."""

    q: Float[Tensor, "B H T K"]
    k: Float[Tensor, "B H T K"]
    v: Float[Tensor, "B H T V"]
    keep: Float[Tensor, "B H T K"]
    erase: Float[Tensor, "B H T K"] | None
    write: Float[Tensor, "B H T"]

    def masked(self, due: Bool[Tensor, "B 1 T"]) -> "ColumnTokens":
        """Neutral wherever `due` is False; exact, not merely small."""
        wide = due.unsqueeze(-1)
        return self._replace(
            keep=torch.where(wide, self.keep, 1.0),
            erase=None if self.erase is None else torch.where(wide, self.erase, 0.0),
            write=torch.where(due, self.write, 0.0),
        )

    def restarted(self, starts: Bool[Tensor, "B H T"]) -> "ColumnTokens":
        """Nothing of the past is left where `starts`: keep and erase of 0, a new context from memory 0."""
        wide = starts.unsqueeze(-1)
        erase = None if self.erase is None else self.erase.masked_fill(wide, 0.0)
        return self._replace(keep=self.keep.masked_fill(wide, 0.0), erase=erase)


class ColumnPair(Protocol):
    """One implementation of the op: a forward and its analytical backward, on flat tensors.

    `saved` is whatever this backward wants from its forward.
    """

    op: str
    backend: str

    def forward(
        self, tokens: ColumnTokens, memory: Float[Tensor, "B H V K"], chunk: int
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Reads `[B, H, T, V]`, final memory, saved tensors."""
        ...

    def backward(
        self, tokens: ColumnTokens, saved: tuple[Tensor, ...], chunk: int, d_out: Tensor, d_end: Tensor
    ) -> tuple[ColumnTokens, Tensor]:
        """Gradients by every token tensor (None where it was None) and by the first memory."""
        ...


class ReferencePair:
    """The op in plain torch, on any device; the meaning that kernel pairs are checked against."""

    op = "affine_column"
    backend = "reference"

    def forward(
        self, tokens: ColumnTokens, memory: Float[Tensor, "B H V K"], chunk: int
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """See `ColumnPair.forward`; saves the memory each chunk began with and the updates u."""
        y, end, saved = reference.forward(_into_chunks(tokens, chunk), memory)
        return y.flatten(2, 3)[:, :, : tokens.v.shape[2]], end, saved

    def backward(
        self, tokens: ColumnTokens, saved: tuple[Tensor, ...], chunk: int, d_out: Tensor, d_end: Tensor
    ) -> tuple[ColumnTokens, Tensor]:
        """See `ColumnPair.backward`."""
        starts, updates = saved
        inputs = _into_chunks(tokens, chunk)
        count, size = d_out.shape[2], inputs.k.shape[3]
        d_out = F.pad(d_out, (0, 0, 0, -count % size)).unflatten(2, (-1, size))
        grads, d_memory = reference.backward(inputs, (starts, updates), d_out, d_end)
        whole = ColumnInputs._make(None if one is None else one.flatten(2, 3)[:, :, :count] for one in grads)
        d_k, d_erase = whole.k, None
        if tokens.erase is not None and whole.erased is not None:
            d_k, d_erase = torch.addcmul(d_k, whole.erased, tokens.erase), whole.erased * tokens.k
        return ColumnTokens(whole.q, d_k, whole.v, whole.keep, d_erase, whole.write), d_memory


REFERENCE = ReferencePair()


def affine_column(
    tokens: ColumnTokens,
    memory: Float[Tensor, "B H V K"],
    surprise: None,
    chunk: int,
    pair: ColumnPair = REFERENCE,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H V K"], None]:
    """Reads after each token's write and the final memory; `surprise` is None, as this op has no momentum.

    Runs in float32 or wider, but a pair whose kernels declare the one dtype of q, k and v reads these as they are. The
    reads come back in v's dtype, the memory in the wider one. Gradients flow to every tensor by the pair's analytical
    backward, once. Source: [2510.26692] Sec. 3 (Kimi Delta Attention); backward derived in
    specs/forms/affine-column.md.
    """
    dtype = tokens.v.dtype
    if tokens.v.shape[2] == 0:
        return tokens.v, memory, None
    wide = torch.promote_types(torch.promote_types(dtype, memory.dtype), torch.float32)
    others = [None if one is None else one.to(wide) for one in tokens[3:]]
    first = memory.to(wide)

    def call(one: ColumnPair) -> tuple[ColumnTokens, Tensor, int]:
        return ColumnTokens._make([*operands(one, tokens[:3], wide), *others]), first, chunk

    pair, (flat, *_) = settled(pair, tokens.v, call)
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (*flat, first)):
        y, end = _AffineColumn.apply(pair, chunk, *flat, first)
    else:
        y, end, _ = pair.forward(flat, first, chunk)
    return y.to(dtype), end, None


class _AffineColumn(torch.autograd.Function):
    """Joins a pair's forward and backward; double backward is refused."""

    @staticmethod
    def forward(ctx: Any, pair: ColumnPair, chunk: int, *flat: Any) -> tuple[Tensor, Tensor]:
        *tokens, memory = flat
        y, end, saved = pair.forward(ColumnTokens(*tokens), memory, chunk)
        ctx.pair, ctx.chunk = pair, chunk
        ctx.save_for_backward(*tokens, *saved)
        return y, end

    @staticmethod
    @first_order
    def backward(ctx: Any, d_out: Tensor, d_end: Tensor) -> tuple[Any, ...]:
        kept = ctx.saved_tensors  # once: activation checkpointing hands each of them out a single time
        tokens, saved = ColumnTokens(*kept[:6]), kept[6:]
        grads, d_memory = ctx.pair.backward(tokens, saved, ctx.chunk, d_out, d_end)
        return None, None, *grads, d_memory


def _into_chunks(tokens: ColumnTokens, chunk: int) -> ColumnInputs:
    """Cut T into chunks; a last chunk that is not full is filled with neutral tokens."""
    count = tokens.v.shape[2]
    chunk = min(chunk, count, LONGEST)
    missing = -count % chunk
    erased = None if tokens.erase is None else tokens.erase * tokens.k
    cut: list[Tensor | None] = []
    for name, one in zip(ColumnInputs._fields, (*tokens[:4], erased, tokens.write), strict=True):
        if one is not None and missing:
            padding = (0, missing) if one.dim() == 3 else (0, 0, 0, missing)
            one = F.pad(one, padding, value=1.0 if name == "keep" else 0.0)
        cut.append(None if one is None else one.unflatten(2, (-1, chunk)))
    return ColumnInputs._make(cut)
