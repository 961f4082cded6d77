"""Ops that walk a whole sequence with the step of one rule: what joins such a pair's forward and backward.

The rule's plugin brings the pairs (one of plain torch, its backend named "reference", and kernels) and a NamedTuple
of what a token has: tensors `[B, H, T, width]` that kernels may read narrow, gates `[B, H, T]`, a mask of bools.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from hecate_core.ops.first_order import first_order
from hecate_core.ops.serving import operands, settled

TokensT = TypeVar("TokensT", bound=tuple[Any, ...])


class SequencePair(Protocol[TokensT]):
    """One implementation of such an op, on flat tensors: a forward and its analytical backward.

    `option` is whatever the rule chooses between (the name of a loss or a map). `saved` is what this backward wants
    from its forward.
    """

    op: str
    backend: str

    def forward(self, tokens: TokensT, state: Tensor, option: str) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Reads `[B, H, T, width]` in the dtype of the operands, the state after the last token, saved tensors."""
        ...

    def backward(
        self, tokens: TokensT, saved: tuple[Tensor, ...], option: str, d_out: Tensor, d_end: Tensor
    ) -> tuple[TokensT, Tensor]:
        """Gradients by every token tensor (None where it was None or bool), and by the first state."""
        ...


def sequence(pair: Any, tokens: TokensT, state: Tensor, option: str = "") -> tuple[Tensor, Tensor]:
    """Reads after each token's write, and the state after the last one.

    Runs in float32 or wider, but a pair whose kernels declare the one dtype of the operands reads these as they are.
    Reads come back in the dtype of the operands, the state in the wider one. Gradients flow to every tensor by the
    pair's analytical backward, once.
    """
    wanted = [one for one in tokens if one is not None and one.dim() == 4]
    dtype = wanted[0].dtype
    for one in wanted[1:]:
        dtype = torch.promote_types(dtype, one.dtype)
    wide = torch.promote_types(torch.promote_types(dtype, state.dtype), torch.float32)
    make: Callable[[Sequence[Tensor | None]], TokensT] = type(tokens)._make  # type: ignore[attr-defined]
    state = state.to(wide)

    def call(one: Any) -> tuple[TokensT, Tensor, str]:
        taken = iter(operands(one, wanted, wide))
        given = [next(taken) if one is not None and one.dim() == 4 else _widened(one, wide) for one in tokens]
        return make(given), state, option

    pair, (given, *_) = settled(pair, wanted[-1], call)
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (*given, state)):
        y, end = _Sequence.apply(pair, make, option, state, *given)
    else:
        y, end, _ = pair.forward(given, state, option)
    return y.to(dtype), end


class _Sequence(torch.autograd.Function):
    """Joins a pair's forward and backward; double backward is refused."""

    @staticmethod
    def forward(ctx: Any, pair: Any, make: Any, option: str, state: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        y, end, saved = pair.forward(make(given), state, option)
        ctx.pair, ctx.make, ctx.option, ctx.count, ctx.dtype = pair, make, option, len(given), state.dtype
        ctx.save_for_backward(*given, *saved)
        return y, end

    @staticmethod
    @first_order
    def backward(ctx: Any, d_out: Tensor, d_end: Tensor) -> tuple[Any, ...]:
        kept = ctx.saved_tensors  # once: activation checkpointing hands each of them out a single time
        given, saved = kept[: ctx.count], kept[ctx.count :]
        grads, d_state = ctx.pair.backward(ctx.make(given), saved, ctx.option, d_out, d_end)
        back = (None if grad is None else grad.to(one.dtype) for grad, one in zip(grads, given, strict=True))
        return None, None, None, d_state.to(ctx.dtype), *back


def _widened(one: Tensor | None, wide: torch.dtype) -> Tensor | None:
    return one if one is None or one.dtype == torch.bool else one.to(wide)
