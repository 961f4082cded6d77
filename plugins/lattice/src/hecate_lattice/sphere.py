"""Slots and their sphere as two knobs: with any inner loss they are a rule.

Specs: specs/knobs/slots.md, specs/knobs/sphere.md. Limit: under l2 they are Lattice `decode`, under dot `similarity`.
"""

from collections.abc import Mapping

import torch.nn.functional as F

from hecate_core.api import Float, NoDecay, Param, Params, Tensor, Trace, Weights


def on_sphere(slots: Float[Tensor, "... V M"]) -> Float[Tensor, "... V M"]:
    """Every slot (column) divided by its length; a zero slot stays zero."""
    return F.normalize(slots, dim=-2)


class Slots:
    """M(x) = S x for slots S that live on the sphere: a key is a code with one number per slot.

    There are as many slots as keys are wide. They start as learned noise: equal slots would stay equal.
    Source: [2504.05646] (objective).
    """

    linear = True
    domain = "sphere"
    layers: Mapping[str, tuple[str, str]] = {"slots": ("V", "K")}
    params: Mapping[str, Param] = {"slots": Param("H V K", 1.0)}

    def trace(self, params: Params, weights: Weights, x: Float[Tensor, "B H T K"]) -> tuple[Tensor, Trace]:
        """S x, and the same as the output of the only weight."""
        prediction = weights.apply("slots", x)
        return prediction, {"slots": (x, prediction)}

    def pullback(self, params: Params, weights: Weights, trace: Trace, d: Tensor) -> Mapping[str, Tensor]:
        """The prediction is the weight's output, so its cotangent is d itself."""
        return {"slots": d}


class Sphere(NoDecay):
    """s_i <- normalise(s_i + (I - s_i s_i^T) step_i) for every column s_i of every weight.

    A step loses what lies along its column, so writing turns columns and nothing else; that is how they forget. The
    step is not added to what is stored: no momentum without transport, no frozen gradients. Source: [2504.05646].
    """

    domain = "sphere"
    decays = False

    def __init__(self) -> None:
        self.inverse = on_sphere

    def advance(self, kept: Float[Tensor, "... V K"], move: Float[Tensor, "... V K"]) -> Float[Tensor, "... V K"]:
        """The columns after a step, of length 1; a decay before it makes the step larger and nothing else."""
        columns = on_sphere(kept)
        return on_sphere(kept + move - columns * (columns * move).sum(-2, keepdim=True))
