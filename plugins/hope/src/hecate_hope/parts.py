"""One of the memories side by side in a self-modifying rule: a structure whose weights and norms carry its name."""

from collections.abc import Mapping

import attrs
import torch

from hecate_core.api import Float, Param, Params, Structure, Tensor, Trace, Weights

EPS = 1e-6  # of the key's norm, as in a front


def unit(x: Float[Tensor, "... K"]) -> Float[Tensor, "... K"]:
    """x / sqrt(|x|^2 + eps^2): never longer than 1."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS**2)


def bounded(x: Float[Tensor, "... K"]) -> Float[Tensor, "... K"]:
    """x / max(1, |x|): a vector of length 1 or less is left as it is."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True).clamp(min=1.0))


class _Named:
    """The weights of one part among those of all."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self._weights, self._prefix = weights, prefix

    def apply(self, name: str, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """See `Weights.apply`."""
        return self._weights.apply(self._prefix + name, x)

    def pull(self, name: str, d: Float[Tensor, "B H T V"]) -> Float[Tensor, "B H T K"]:
        """See `Weights.pull`."""
        return self._weights.pull(self._prefix + name, d)


@attrs.frozen
class Part:
    """A structure under a name; `square` makes its values as wide as keys, which what stands in for a projection is.

    Its first weights are learned noise even where the structure's own are zeros: a zero map makes no keys.
    """

    name: str
    structure: Structure
    square: bool = False

    @property
    def params(self) -> Mapping[str, Param]:
        """The structure's outer parameters under this part's name."""
        made = {}
        for name, declared in self.structure.params.items():
            start = 1.0 if name in self.structure.layers and declared.start == "zeros" else declared.start
            axes = declared.axes.replace("V", "K") if self.square else declared.axes
            made[self.weight(name)] = Param(axes, start)
        return made

    @property
    def weights(self) -> list[str]:
        """The names of its weights in the state."""
        return [self.weight(layer) for layer in self.structure.layers]

    def weight(self, layer: str) -> str:
        """A layer's name among all parts."""
        return f"{self.name}_{layer}"

    def trace(self, params: Params, weights: Weights, x: Float[Tensor, "B H T K"]) -> tuple[Tensor, Trace]:
        """See `Structure.trace`."""
        return self.structure.trace(self._own(params), _Named(weights, f"{self.name}_"), x)

    def answer(self, params: Params, weights: Weights, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T V"]:
        """The prediction alone."""
        predict = getattr(self.structure, "predict", None)
        named = _Named(weights, f"{self.name}_")
        made: Tensor = self.trace(params, weights, x)[0] if predict is None else predict(self._own(params), named, x)
        return made

    def pullback(self, params: Params, weights: Weights, trace: Trace, d: Tensor) -> Mapping[str, Tensor]:
        """See `Structure.pullback`."""
        return self.structure.pullback(self._own(params), _Named(weights, f"{self.name}_"), trace, d)

    def _own(self, params: Params) -> Params:
        return Params.of({name: params[self.weight(name)] for name in self.structure.params})
