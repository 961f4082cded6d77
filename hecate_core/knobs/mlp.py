"""The MLP structure: k layers between key and value, the memory of deep Titans and of the MIRAS rules.

Spec: specs/knobs/mlp.md. Limit: one layer without residual and norm is the matrix.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from hecate_core.errors import CompositionError, InputError
from hecate_core.knobs.activations import activation as known_activation
from hecate_core.knobs.activations import with_slope
from hecate_core.knobs.layernorm import norm_pullback
from hecate_core.protocols import Param, Trace
from hecate_core.records import Params
from hecate_core.shapes import Float, Tensor
from hecate_core.weights import Weights


class _Trace(dict[str, tuple[Tensor, Tensor]]):
    """A trace that also knows the slopes of its activations."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes: dict[str, Tensor] = {}


class MLP:
    """M(x) = W_k act(... act(W_1 x)), with `residual` x + M(x), with `norm` LayerNorm(M(x)) (both: x + LN(M(x))).

    Weights `w1` ... `wk`, hidden width `expansion` times the key width; `depth` >= 1 counts weights. `activation` is
    "gelu" (exact) or "silu". The norm has an outer scale and shift per head. `start` scales the first weights (normal
    noise over the root of the fan-in). Source: [2501.00663] Sec. 3.1; [2504.13173] Sec. 5.3.
    """

    def __init__(
        self,
        *,
        depth: int = 2,
        expansion: float = 4.0,
        activation: str = "gelu",
        residual: bool = False,
        norm: bool = False,
        norm_eps: float = 1e-5,
        start: float = 1.0,
    ) -> None:
        if depth < 1:
            raise CompositionError(f"mlp: depth = {depth}; expected an integer >= 1")
        if not expansion > 0.0:
            raise CompositionError(f"mlp: expansion = {expansion}; expected a number > 0")
        self._activation = known_activation(activation)
        self._residual, self._norm, self._eps = residual, norm, norm_eps
        borders = ["K", *["F"] * (depth - 1), "V"]
        self.layers: Mapping[str, tuple[str, str]] = {f"w{i + 1}": (borders[i + 1], borders[i]) for i in range(depth)}
        self.linear = depth == 1 and not residual and not norm
        self.normalised = norm
        self.widths: Mapping[str, tuple[float, str]] = {"F": (expansion, "K")} if depth > 1 else {}
        self.params: Mapping[str, Param] = {
            name: Param(f"H {rows} {columns}", start) for name, (rows, columns) in self.layers.items()
        }
        if norm:
            self.params = {**self.params, "norm_scale": Param("H V", "ones"), "norm_shift": Param("H V", "zeros")}
        self._last = f"w{depth}"

    def predict(self, params: Params, weights: Weights, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """M(x). Spec Eq. 1 to 3."""
        hidden = x
        for name in self.layers:
            output = weights.apply(name, hidden)
            hidden = output if name == self._last else self._activation.value(output)
        return self._finished(params, hidden, x)

    def trace(self, params: Params, weights: Weights, x: Float[Tensor, "B H T K"]) -> tuple[Tensor, Trace]:
        """M(x), and every layer's input and pre-activation output; the slopes come along for the pullback."""
        trace, hidden = _Trace(), x
        for name in self.layers:
            output = weights.apply(name, hidden)
            trace[name] = (hidden, output)
            if name != self._last:
                hidden, trace.slopes[name] = with_slope(self._activation, output)
        return self._finished(params, trace[self._last][1], x), trace

    def _finished(self, params: Params, z: Tensor, x: Tensor) -> Tensor:
        """Norm and residual around the last layer's output. Spec Eq. 2 and 3."""
        if self._norm:
            scale, shift = params.norm_scale.unsqueeze(-2), params.norm_shift.unsqueeze(-2)
            z = torch.addcmul(shift, F.layer_norm(z, z.shape[-1:], eps=self._eps), scale)
        if not self._residual:
            return z
        if z.shape[-1] != x.shape[-1]:
            raise InputError(
                f"mlp: a residual needs values as wide as keys, got {z.shape[-1]} and {x.shape[-1]}; "
                "set residual = false or make the widths equal"
            )
        return z + x

    def pullback(self, params: Params, weights: Weights, trace: Trace, d: Tensor) -> Mapping[str, Tensor]:
        """Back through norm, then layer by layer: d_i = act'(z_i) * W_{i+1}^T d_{i+1}. Spec Eq. 4 to 6."""
        if self._norm:
            d = norm_pullback(trace[self._last][1], d * params.norm_scale.unsqueeze(-2), self._eps)
        pulled = {self._last: d}
        names = list(self.layers)
        for after, name in zip(reversed(names), reversed(names[:-1]), strict=False):
            slope = trace.slopes[name] if isinstance(trace, _Trace) else with_slope(self._activation, trace[name][1])[1]
            d = slope * weights.pull(after, d)
            pulled[name] = d
        return pulled
