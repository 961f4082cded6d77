"""What most retentions share: evidence decays and adds up in A, weights are a function of it.

Spec: specs/knobs/kl.md, section Idea. With link = identity this is plain decay.
"""

from collections.abc import Callable, Mapping

import torch

from hecate_core.api import RETAIN, Gate, Tensor, Tokens

Map = Callable[[Tensor], Tensor]


class Linked:
    """A <- retain A - write g, W = link(A); the link does not feed back, so frozen gradients stay linear in A.

    `inverse`, where there is one, finds the A whose weights are the starting weights; without it the start is A.
    `decay=False` leaves out the gate: A keeps everything.
    """

    axis = "scalar"
    domain = "real"
    project: Map | None = None

    def __init__(self, link: Map, inverse: Map | None = None, *, decay: bool = True) -> None:
        self.link: Map | None = link
        self.inverse: Map | None = inverse
        self.decays = decay
        self.gates: Mapping[str, Gate] = {"retain": RETAIN} if decay else {}

    def keep(self, tokens: Tokens) -> Tensor:
        """The gate, or ones, `[B, H, T]`."""
        if not self.decays:
            return torch.ones_like(next(iter(tokens.values()))[..., 0])
        retain: Tensor = tokens.retain
        return retain
