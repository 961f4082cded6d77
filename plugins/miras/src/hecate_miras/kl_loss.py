"""Kullback-Leibler loss: the read is logits, and it should give the distribution that the value's logits give.

Spec: specs/knobs/kl-loss.md, Eq. 1. Limit: near a uniform prediction it is the squared loss of centred logits over V.
"""

from collections.abc import Mapping

import torch

from hecate_core.api import Float, Gate, Tensor, Tokens


class KLLoss:
    """KL(softmax v; softmax M(k)) with cotangent softmax M(k) - softmax v. An extension, not in [2504.13173]."""

    gates: Mapping[str, Gate] = {}
    affine: tuple[float, float] | None = None

    def cotangent(self, prediction: Tensor, v: Tensor, tokens: Tokens) -> Float[Tensor, "B H T V"]:
        """Entries in (-1, 1) that sum to 0."""
        return torch.softmax(prediction, -1) - torch.softmax(v, -1)
