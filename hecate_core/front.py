"""The front of a memory: from activations to the inputs that a rule declares.

Linear projection, short causal convolution, SiLU, then L2 normalisation of queries and keys
([2501.00663] Sec. 4.4). One front per site that reads or writes, each with its own streamed state.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hecate_core.convolution import CausalConv
from hecate_core.differentiation import autodiff
from hecate_core.protocols import Widths
from hecate_core.records import State, Tokens
from hecate_core.shapes import Bool, Float, Tensor

NORM_EPS = 1e-6


def unit(x: Float[Tensor, "... K"]) -> Float[Tensor, "... K"]:
    """x / sqrt(|x|^2 + eps^2) in float32 or wider; 0 stays 0. Bounds |k| by 1, which every rule's stability assumes."""
    unit_rows: Tensor = _Unit.apply(x.to(torch.promote_types(x.dtype, torch.float32)))
    return unit_rows


class _Unit(torch.autograd.Function):
    """y = x r with r = 1 / sqrt(|x|^2 + eps^2); dx = r (dy - y (y . dy)), in half the passes of autograd's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        r = torch.rsqrt(x.square().sum(-1, keepdim=True) + NORM_EPS**2)
        y = x * r
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        y, r = ctx.saved_tensors
        along = (y * dy).sum(-1, keepdim=True)
        return torch.addcmul(dy, y, along, value=-1).mul_(r)


class Front(nn.Module):
    """Makes the declared inputs `[B, H, T, width]` from activations `[B, T, D]`.

    `mixed` streams pass the convolution (kernel `conv`, 0: none) and the activation; `normed` streams are
    normalised per head; a declared input in neither is a plain projection.
    """

    def __init__(
        self,
        width: int,
        inputs: Mapping[str, str],
        widths: Widths,
        *,
        conv: int = 4,
        mixed: Collection[str] = ("q", "k", "v"),
        normed: Collection[str] = ("q", "k"),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self._heads = widths["H"]
        ordered = sorted(inputs, key=lambda name: name not in mixed)  # mixed streams first: one slice for the conv
        self._sizes = {name: widths["H"] * widths[inputs[name]] for name in ordered}
        self._mixed_size = sum(size for name, size in self._sizes.items() if name in mixed)
        self._normed = frozenset(normed)
        self._activation = activation
        self.project = nn.Linear(width, sum(self._sizes.values()), bias=False)
        self.conv = CausalConv(self._mixed_size, kernel=conv) if conv and self._mixed_size else None

    def init_state(self, batch: int) -> State:
        """The convolution's tail before the first token (empty without a convolution)."""
        return State(conv=self.conv.init_state(batch)) if self.conv is not None else State()

    @autodiff
    def forward(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Tokens, State]:
        """The rule's inputs for these tokens and the state after them; nothing is mixed across `starts`."""
        streams = self.project(x)
        whole = self._mixed_size == streams.shape[-1]  # then neither cut nor joined: each costs a copy either way
        mixed = streams if whole else streams[..., : self._mixed_size]
        if self.conv is not None:
            mixed, tail = self.conv(mixed, state.conv, starts)
            state = state.replace(conv=tail)
        if self._activation == "silu":
            mixed = F.silu(mixed)
        made = mixed if whole else torch.cat((mixed, streams[..., self._mixed_size :]), -1)
        parts = made.split(list(self._sizes.values()), -1)
        inputs = {name: self._per_head(name, part) for name, part in zip(self._sizes, parts, strict=True)}
        return Tokens.of(inputs), state.replace(position=state.position + x.shape[1])

    def _per_head(self, name: str, stream: Tensor) -> Float[Tensor, "B H T W"]:
        heads = stream.unflatten(-1, (self._heads, -1)).transpose(1, 2)
        return unit(heads).to(heads.dtype) if name in self._normed else heads
