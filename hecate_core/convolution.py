"""Short causal convolution per channel, with its tail as streamed state."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hecate_core.errors import CompositionError
from hecate_core.records import State
from hecate_core.shapes import Bool, Float, Tensor


class CausalConv(nn.Module):
    """z_t[c] = b[c] + sum over j < kernel of w[c, j] x_{t-j}[c]; tokens before the first are 0.

    Source: [2501.00663] Sec. 4.4 (depthwise convolution after the projections); width 4 as in [2505.23735] Sec. 5.1.
    """

    def __init__(self, width: int, kernel: int = 4) -> None:
        super().__init__()
        if width < 1 or kernel < 1:
            raise CompositionError(f"convolution: width {width}, kernel {kernel}; expected both >= 1")
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(width, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        bound = kernel**-0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def init_state(self, batch: int, dtype: torch.dtype | None = None, device: torch.device | None = None) -> State:
        """The last kernel - 1 inputs, `[B, kernel - 1, D]`: zeros before the first token."""
        shape = (batch, self.kernel - 1, self.weight.shape[0])
        return State(tail=self.weight.new_zeros(shape, dtype=dtype, device=device).detach())

    def forward(
        self, x: Float[Tensor, "B T D"], state: State | None = None, starts: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """The convolution of these tokens and the tail after them, in the tail's own dtype; None is a fresh state.

        Where `starts` is True a new document begins, and nothing before it is seen.
        """
        count = x.shape[1]
        state = self.init_state(x.shape[0]) if state is None else state
        if count == 0:
            return x, state
        wide = torch.cat((state.tail.to(x.dtype), x), 1)
        if starts is None:
            z = _convolved(wide, self.weight.to(x.dtype), self.bias.to(x.dtype))
            tail = wide[:, count:]
        else:
            z, tail = self._within_documents(wide, starts)
        tail = tail.to(state.tail.dtype).clone(memory_format=torch.contiguous_format)
        return z, State(tail=tail, position=state.position + count)

    def _within_documents(self, wide: Tensor, starts: Tensor) -> tuple[Float[Tensor, "B T D"], Tensor]:
        """Tap by tap over `wide`, the tail and the tokens; a tap that reaches across a start is 0, in the tail too."""
        count, taps = starts.shape[1], self.weight.to(wide.dtype)[:, 0]  # D K, the present token last
        z = self.bias.to(wide.dtype) + taps[:, -1] * wide[:, self.kernel - 1 :]
        document = F.pad(starts.long(), (self.kernel - 1, 0)).cumsum(1)  # what a start before the call cut is 0 already
        for back in range(1, self.kernel):
            first = self.kernel - 1 - back
            same = document[:, first : first + count] == document[:, self.kernel - 1 :]
            z = z + taps[:, -1 - back] * wide[:, first : first + count] * same.unsqueeze(-1)
        kept = document[:, count:] == document[:, -1:]
        return z, wide[:, count:] * kept.unsqueeze(-1)


def _convolved(wide: Float[Tensor, "B L D"], weight: Float[Tensor, "D 1 J"], bias: Tensor) -> Tensor:
    """`[B, L - J + 1, D]`; on the CPU in the tokens' own order, where torch's convolution takes three times as long."""
    if wide.device.type != "cpu" or wide.dtype not in (torch.float32, torch.float64):
        return F.conv1d(wide.mT, weight, bias, groups=wide.shape[2]).mT  # one kernel, sums in float32
    if torch.is_grad_enabled() and any(one.requires_grad for one in (wide, weight, bias)):
        z: Tensor = _Shifted.apply(wide, weight, bias)
        return z
    return _shifted(wide, weight, bias)


def _shifted(wide: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    taps = weight[:, 0].mT.contiguous()
    count = wide.shape[1] - len(taps) + 1
    z = torch.addcmul(bias, wide[:, :count], taps[0])
    for j in range(1, len(taps)):
        z.addcmul_(wide[:, j : j + count], taps[j])
    return z


class _Shifted(torch.autograd.Function):
    """The sum of shifted tokens, with its own backward; double backward is refused."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(wide, weight)
        return _shifted(wide, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide, weight = ctx.saved_tensors
        taps, count = weight[:, 0].mT.contiguous(), dz.shape[1]
        d_wide, d_taps = torch.zeros_like(wide), []
        for j in range(len(taps)):
            d_wide[:, j : j + count].addcmul_(dz, taps[j])
            d_taps.append((dz * wide[:, j : j + count]).sum((0, 1)))
        return d_wide, torch.stack(d_taps, -1).unsqueeze(1), dz.sum((0, 1))
