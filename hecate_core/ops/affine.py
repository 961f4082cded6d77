"""The op `affine`: the recurrence behind every memory that is affine in itself, exact in any chunking.

    u_t = write_t v_t - erase_t M_{t-1} k_t
    S_t = momentum_t S_{t-1} + u_t k_t^T          (without momentum: S_t = u_t k_t^T)
    M_t = keep_t M_{t-1} + inject_t S_t           (inject defaults to 1)
    y_t = M_t q_t

Linear attention, Hebbian, delta rule, DGD and Titans with a matrix memory are cases of it
(specs/forms/affine.md). A token with keep 1, erase 0, write 0, momentum 1, inject 0 changes nothing.
"""

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F

from hecate_core.ops import affine_reference as reference
from hecate_core.ops.affine_reference import AffineInputs
from hecate_core.ops.first_order import first_order
from hecate_core.ops.serving import operands, settled, told_apart
from hecate_core.shapes import Bool, Float, Tensor

# How a token that must change nothing looks, by name of the coefficient.
NEUTRAL = {"keep": 1.0, "erase": 0.0, "write": 0.0, "momentum": 1.0, "inject": 0.0}


class AffineCoefficients(NamedTuple):
    """The recurrence's coefficients per token, `[B, H, T]` each; None where a rule has no such term."""

    keep: Float[Tensor, "B H T"]
    erase: Float[Tensor, "B H T"] | None
    write: Float[Tensor, "B H T"]
    momentum: Float[Tensor, "B H T"] | None = None
    inject: Float[Tensor, "B H T"] | None = None

    def masked(self, due: Float[Tensor, "B 1 T"]) -> "AffineCoefficients":
        """Neutral wherever the bool mask `due` is False; exact, not merely small."""
        inject = self.inject
        if inject is None and self.momentum is not None:
            inject = torch.ones_like(self.keep)  # without it a resting token would let S into M
        filled = self._replace(inject=inject)._asdict()
        return AffineCoefficients._make(
            None if one is None else torch.where(due, one, NEUTRAL[name]) for name, one in filled.items()
        )


class AffineTokens(NamedTuple):
    """All per-token tensors of the op, in the order in which every implementation takes them."""

    q: Float[Tensor, "B H T K"]
    k: Float[Tensor, "B H T K"]
    v: Float[Tensor, "B H T V"]
    keep: Float[Tensor, "B H T"]
    erase: Float[Tensor, "B H T"] | None
    write: Float[Tensor, "B H T"]
    momentum: Float[Tensor, "B H T"] | None
    inject: Float[Tensor, "B H T"] | None

    def masked(self, due: Float[Tensor, "B 1 T"]) -> "AffineTokens":
        """Neutral wherever the bool mask `due` is False; see `AffineCoefficients.masked`."""
        return AffineTokens._make((*self[:3], *AffineCoefficients._make(self[3:]).masked(due)))

    def restarted(self, starts: Bool[Tensor, "B H T"]) -> "AffineTokens":
        """Nothing of the past is left where `starts`: keep, erase and momentum of 0, a new context from memory 0."""
        return self._replace(
            keep=self.keep.masked_fill(starts, 0.0),
            erase=None if self.erase is None else self.erase.masked_fill(starts, 0.0),
            momentum=None if self.momentum is None else self.momentum.masked_fill(starts, 0.0),
        )


class AffinePair(Protocol):
    """One implementation of the op: a forward and its analytical backward, on flat tensors.

    Dtypes are float32 or float64 for the reference; a kernel pair says what it takes. `surprise` is None
    exactly when `tokens.momentum` is. `saved` is whatever this backward wants from its forward.
    """

    op: str
    backend: str

    def forward(
        self, tokens: AffineTokens, memory: Tensor, surprise: Tensor | None, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, ...]]:
        """Reads `[B, H, T, V]`, final memory, final momentum or None, saved tensors."""
        ...

    def backward(
        self,
        tokens: AffineTokens,
        saved: tuple[Tensor, ...],
        chunk: int,
        d_out: Tensor,
        d_ends: tuple[Tensor, Tensor | None],
    ) -> tuple[AffineTokens, Tensor, Tensor | None]:
        """Gradients by every token tensor (None where it was None), first memory and first momentum."""
        ...


class ReferencePair:
    """The op in plain torch, on any device; the meaning that kernel pairs are checked against."""

    op = "affine"
    backend = "reference"

    def forward(
        self, tokens: AffineTokens, memory: Tensor, surprise: Tensor | None, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, ...]]:
        """See `AffinePair.forward`; saves what `affine_reference.forward` says."""
        joint = memory if surprise is None else torch.cat((memory, surprise), -1)
        y, joint, saved = reference.forward(_into_chunks(tokens, chunk), joint.flatten(0, 1))
        ends = _apart(joint.unflatten(0, memory.shape[:2]), surprise is not None)
        return (_whole(y, tokens.v.shape[2]), *ends, saved)

    def backward(
        self,
        tokens: AffineTokens,
        saved: tuple[Tensor, ...],
        chunk: int,
        d_out: Tensor,
        d_ends: tuple[Tensor, Tensor | None],
    ) -> tuple[AffineTokens, Tensor, Tensor | None]:
        """See `AffinePair.backward`."""
        inputs = _into_chunks(tokens, chunk)
        d_joint = d_ends[0] if d_ends[1] is None else torch.cat((d_ends[0], d_ends[1]), -1)
        d_out = _cut(d_out, inputs.k.shape[3])
        grads, d_joint = reference.backward(inputs, saved, d_out, d_joint.flatten(0, 1))
        if tokens.inject is None:
            grads = grads._replace(inject=None)
        whole = [None if grad is None else _whole(grad, tokens.v.shape[2]) for grad in grads]
        firsts = _apart(d_joint.unflatten(0, d_ends[0].shape[:2]), d_ends[1] is not None)
        return (AffineTokens._make(whole), *firsts)


REFERENCE = ReferencePair()


def affine(
    tokens: AffineTokens,
    memory: Float[Tensor, "B H V K"],
    surprise: Float[Tensor, "B H V K"] | None,
    chunk: int,
    pair: AffinePair = REFERENCE,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H V K"], Float[Tensor, "B H V K"] | None]:
    """Reads after each token's write, the final memory and the final momentum S.

    `surprise` is S before the first token and must be given exactly when `tokens.momentum` is.
    Runs in float32 or wider, but a pair whose kernels declare the one dtype of q, k and v reads these as they are. The
    reads come back in v's dtype, the memories in the wider one. Gradients flow to every tensor by the pair's analytical
    backward, once.
    Source: [2406.06484] Sec. 3 for the delta rule; derived: with momentum and inject, specs/forms/affine.md.
    """
    dtype = tokens.v.dtype
    if tokens.v.shape[2] == 0:
        return tokens.v, memory, surprise
    wide = torch.promote_types(torch.promote_types(dtype, memory.dtype), torch.float32)
    others = [None if one is None else one.to(wide) for one in (*tokens[3:], surprise)]
    first = memory.to(wide)

    def call(one: AffinePair) -> tuple[AffineTokens, Tensor, Tensor | None, int]:
        return AffineTokens._make([*operands(one, tokens[:3], wide), *others[:-1]]), first, others[-1], chunk

    pair, given = settled(pair, tokens.v, call)
    flat: list[Tensor | None] = [*given[0], *given[1:3]]
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in flat):
        y, memory, surprise = _Affine.apply(pair, chunk, *told_apart(flat))
    else:
        y, memory, surprise, _ = pair.forward(*given)
    return y.to(dtype), memory, surprise


class _Affine(torch.autograd.Function):
    """Joins a pair's forward and backward; double backward is refused."""

    @staticmethod
    def forward(ctx: Any, pair: AffinePair, chunk: int, *flat: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        *tokens, memory, surprise = flat
        y, end, surprise_end, saved = pair.forward(AffineTokens(*tokens), memory, surprise, chunk)
        ctx.pair, ctx.chunk = pair, chunk
        ctx.save_for_backward(*tokens, *saved)
        return y, end, surprise_end

    @staticmethod
    @first_order
    def backward(ctx: Any, d_out: Tensor, d_end: Tensor, d_surprise: Tensor | None) -> tuple[Any, ...]:
        kept = ctx.saved_tensors  # once: activation checkpointing hands each of them out a single time
        tokens, saved = AffineTokens(*kept[:8]), kept[8:]
        ends = (d_end, d_surprise if tokens.momentum is not None else None)
        grads, d_memory, d_first = ctx.pair.backward(tokens, saved, ctx.chunk, d_out, ends)
        return None, None, *grads, d_memory, d_first


def _apart(joint: Tensor, has_momentum: bool) -> tuple[Tensor, Tensor | None]:
    if not has_momentum:
        return joint, None
    memory, surprise = joint.chunk(2, -1)
    return memory, surprise


def _into_chunks(tokens: AffineTokens, chunk: int) -> AffineInputs:
    """Cut T into chunks of at most `chunk`; a last chunk that is not full is filled with neutral tokens."""
    chunk = min(chunk, tokens.v.shape[2], reference.longest(tokens.k.shape[3], tokens.v.shape[3]))
    if tokens.v.shape[2] % chunk and tokens.momentum is not None and tokens.inject is None:
        tokens = tokens._replace(inject=torch.ones_like(tokens.keep))  # see AffineCoefficients.masked
    return AffineInputs._make(
        None if one is None else _cut(one, chunk, NEUTRAL.get(name, 0.0))
        for name, one in zip(AffineInputs._fields, tokens, strict=True)
    )


def _cut(one: Tensor, chunk: int, fill: float = 0.0) -> Float[Tensor, "N B H C W"]:
    """`[B, H, T, W]` or `[B, H, T]` in chunks, chunks first; a view where T is a multiple of the chunk."""
    missing = -one.shape[2] % chunk
    if missing:
        one = F.pad(one, (0, 0) * (one.dim() - 3) + (0, missing), value=fill)
    cut: Tensor = one.unflatten(2, (-1, chunk)).movedim(2, 0)
    return cut


def _whole(one: Float[Tensor, "N B H C W"], count: int) -> Tensor:
    """The first `count` tokens in their own order again: the inverse of `_cut`."""
    return one.movedim(0, 2).flatten(2, 3)[:, :, :count]
