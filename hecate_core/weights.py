"""What a structure sees instead of weights: `apply(name, x)` and `pull(name, d)`.

A structure never touches a weight, so one `trace` and one `pullback` serve a single step, an anchor,
a decayed memory and a memory per token. The strategy decides what stands behind.
"""

from collections.abc import Mapping
from typing import Protocol

from hecate_core.shapes import Float, Tensor

TINY = 1e-12  # an input of nothing has nothing to erase


class Weights(Protocol):
    """Linear maps by name, applied to rows of tokens."""

    def apply(self, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """W x for every token, with the W that the token sees."""
        ...

    def pull(self, name: str, d: Float[Tensor, "B H T V"]) -> Float[Tensor, "B H T K"]:
        """W^T d for every token: a cotangent of the output brought to the input."""
        ...


class Shared:
    """One matrix per weight for all tokens: a single step, an anchor, a read."""

    def __init__(self, weights: Mapping[str, Float[Tensor, "B H V K"]]) -> None:
        self._weights = weights

    def apply(self, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """See `Weights.apply`."""
        return x @ self._weights[name].mT

    def pull(self, name: str, d: Float[Tensor, "B H T V"]) -> Float[Tensor, "B H T K"]:
        """See `Weights.pull`."""
        return d @ self._weights[name]


class Kept:
    """A matrix seen through each token's decay: the memory as it is after forgetting.

    `axis` says what a decay multiplies: "scalar" the whole matrix (decay `[B, H, T]`), "column" the
    inputs (`[B, H, T, K]`), "row" the outputs (`[B, H, T, V]`).
    """

    def __init__(self, weights: Weights, decay: Tensor, axis: str) -> None:
        self._weights, self._axis = weights, axis
        self._decay = decay.unsqueeze(-1) if axis == "scalar" else decay

    def apply(self, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """See `Weights.apply`."""
        if self._axis == "column":
            return self._weights.apply(name, self._decay * x)
        return self._decay * self._weights.apply(name, x)

    def pull(self, name: str, d: Float[Tensor, "B H T V"]) -> Float[Tensor, "B H T K"]:
        """See `Weights.pull`."""
        if self._axis == "row":
            return self._weights.pull(name, self._decay * d)
        return self._decay * self._weights.pull(name, d)


def along(rate: Float[Tensor, "B H T"], x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
    """What is read of a weight to forget along its input: rate x where |x| = 1, at most all that lies along x."""
    return share_along(rate, x).unsqueeze(-1) * x


def share_along(rate: Float[Tensor, "B H T"], x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T"]:
    """e = rate / (1 - rate + rate |x|^2), for W -> W (I - e x x^T). Spec: specs/knobs/directional.md, Eq. 2."""
    return rate / (1.0 - rate + rate * x.square().sum(-1)).clamp(min=TINY)


class Turned:
    """A matrix as it is after forgetting along each token's own input, W (D - e x x^T), beside the decay D.

    `kept` sees W D, `old` sees W. `pull` is for the inputs that `apply` met: those of one pass of a token.
    """

    def __init__(self, kept: Weights, old: Weights, rate: Float[Tensor, "B H T"]) -> None:
        self._kept, self._old, self._rate = kept, old, rate
        self._met: dict[str, Tensor] = {}

    def apply(self, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """See `Weights.apply`."""
        self._met[name] = x
        share = (along(self._rate, x) * x).sum(-1, keepdim=True)
        return self._kept.apply(name, x) - share * self._old.apply(name, x)

    def pull(self, name: str, d: Float[Tensor, "B H T V"]) -> Float[Tensor, "B H T K"]:
        """See `Weights.pull`."""
        x = self._met[name]
        back = (self._old.pull(name, d) * x).sum(-1, keepdim=True)
        return self._kept.pull(name, d) - back * along(self._rate, x)


class PerToken:
    """A matrix per token and weight, `[B, H, T, V, K]`: what a link between memory and weights needs."""

    def __init__(self, weights: Mapping[str, Float[Tensor, "B H T V K"]]) -> None:
        self._weights = weights

    def apply(self, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """See `Weights.apply`."""
        return (self._weights[name] @ x.unsqueeze(-1)).squeeze(-1)

    def pull(self, name: str, d: Float[Tensor, "B H T V"]) -> Float[Tensor, "B H T K"]:
        """See `Weights.pull`."""
        return (d.unsqueeze(-2) @ self._weights[name]).squeeze(-2)
