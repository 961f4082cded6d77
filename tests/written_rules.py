"""Rules of four knobs written a second time: forward functions and losses in plain torch, inner gradients by autograd.

Nothing here asks a component for a gradient. What is taken from the rule is what has no gradient in it: links,
projections and own steps of retentions, and the rates that an algorithm makes of gates.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from hecate_core.composed import ComposedRule
from hecate_core.records import Params, State, Tokens
from hecate_core.shapes import Tensor

from .knob_forms import Form, Product

Weights = Mapping[str, Tensor]
Layers = dict[str, tuple[Tensor, Tensor]]
NORM_EPS = 1e-5
POLYNOMIALS = {"muon": (3.4445, -4.7750, 2.0315), "polar": (1.5, -0.5, 0.0)}


def log_cosh(x: Tensor) -> Tensor:
    return x.abs() + torch.log1p((-2.0 * x.abs()).exp())


def smooth_l1(e: Tensor) -> Tensor:
    return (log_cosh(10.0 * e) / 10.0).sum(-1)


def huber(e: Tensor, threshold: Tensor, form: str = "switch", unit: str = "norm") -> tuple[Tensor, Tensor]:
    """The loss per token, and how far the nearest corner is."""
    threshold = threshold * e.shape[-1] ** 0.5 if unit == "rms" else threshold
    if form == "coordinate":
        size, wide = e.abs(), threshold.unsqueeze(-1)
        return torch.where(size <= wide, 0.5 * size**2, wide * (size - 0.5 * wide)).sum(-1), size - wide
    length = e.norm(dim=-1)
    beyond = threshold * smooth_l1(e) if form == "switch" else threshold * (length - 0.5 * threshold)
    return torch.where(length <= threshold, 0.5 * length**2, beyond), length - threshold


def loss(bias: Form, p: Tensor, v: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """The inner loss `[B, H, T]` of a registered bias, and distances to points where it has no second derivative."""
    e, options, far = p - v, dict(bias.options), torch.full((), 1.0, dtype=p.dtype)
    if bias.name == "dot":
        return -(p * v).sum(-1), far
    if bias.name == "l2":
        return 0.5 * (e * e).sum(-1), far
    if bias.name == "l1":
        return smooth_l1(e), far
    if bias.name == "lp":
        power = options.get("p", 3.0)
        return e.abs().pow(power).sum(-1), (e if power < 2.0 else far)
    if bias.name == "huber":
        return huber(e, tokens.threshold, **options)
    if bias.name == "robust":
        return (0.5 * (e * e).sum(-1) + 0.1 * ((e * e).sum(-1) + 1e-6).sqrt()), far
    assert bias.name == "kl", f'no loss is written for bias "{bias}"; add it'
    target = torch.log_softmax(v, -1)
    return (target.exp() * (target - torch.log_softmax(p, -1))).sum(-1), far


def cotangent(bias: Form, p: Tensor, v: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """dL/dp by autograd. The smooth l_p is given by its derivative and has no other form."""
    if bias.name == "lp" and bias.options.get("smooth", True):
        e, power = p - v, bias.options.get("p", 3.0)
        d: Tensor = power * torch.tanh(10.0 * e) * (e * e + 1e-6).pow((power - 1.0) / 2.0)
        return d, torch.ones_like(e)
    value, distance = loss(bias, p, v, tokens)
    return torch.autograd.grad(value.sum(), p, create_graph=True)[0], distance


def predict(structure: Form, params: Params, weights: Weights, x: Tensor) -> tuple[Tensor, Layers]:
    """M(x), and every weight's input and output."""
    if structure.name in ("matrix", "slots"):
        y = x @ weights[structure.name].mT
        return y, {structure.name: (x, y)}
    assert structure.name == "mlp", f'structure "{structure}" is not written here; add it'
    options, layers, hidden = structure.options, Layers(), x
    act = F.silu if options.get("activation") == "silu" else F.gelu
    names = [f"w{i + 1}" for i in range(options.get("depth", 2))]
    for name in names:
        z = hidden @ weights[name].mT
        layers[name] = (hidden, z)
        hidden = z if name == names[-1] else act(z)
    if options.get("norm"):
        centred = hidden - hidden.mean(-1, keepdim=True)
        hidden = centred / (centred.square().mean(-1, keepdim=True) + NORM_EPS).sqrt()
        hidden = hidden * params.norm_scale.unsqueeze(-2) + params.norm_shift.unsqueeze(-2)
    return (hidden + x if options.get("residual") else hidden), layers


def _erased(retention: Any, token: Tokens) -> Tensor | None:
    """The rate at which a retention forgets along the input."""
    erase = getattr(retention, "erase", None)
    return None if erase is None else erase(token)


def _along(rate: Tensor, old: Tensor, x: Tensor) -> Tensor:
    """e W x x^T with e = rate / (1 - rate + rate |x|^2)."""
    return _wide(rate) * (old @ x.mT @ x) / (1.0 - _wide(rate) * (1.0 - x @ x.mT))


def orthogonal(momentum: Tensor, algorithm: Form) -> Tensor:
    """Five Newton-Schulz steps, squaring the longer side too: the same map."""
    a, b, c = POLYNOMIALS[algorithm.options.get("coefficients", "muon")]
    x: Tensor = momentum / (momentum.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + b * square @ x + c * square @ square @ x
    return x


class WrittenRule:
    """The rule of a product; `run` is its token loop, or with a `chunk` that of gradients frozen at chunk starts."""

    def __init__(self, product: Product, rule: ComposedRule, params: Params) -> None:
        self._product, self._rule, self._params = product, rule, params
        self.nearest = float("inf")  # distance of the nearest point without a second derivative that was met

    def run(
        self, tokens: Tokens, state: State, chunk: int | None = None, *, detach: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Reads after each write, and what is stored at the end by dotted names; `detach`: anchors are constants."""
        stored, momenta = dict(state.memory), dict(state.get("momentum", {}))
        anchor, reads = dict(stored), []
        for t in range(tokens.q.shape[2]):
            token = tokens.map(lambda one, at=t: one[:, :, at : at + 1])  # type: ignore[misc]
            if chunk is None or t % chunk == 0:
                anchor = {name: one.detach() if detach else one for name, one in stored.items()}
            stored, momenta = self._written(token, stored, momenta, anchor)
            shown = {name: self._projected(one) for name, one in stored.items()}
            if chunk is None or (t + 1) % chunk == 0:
                stored = shown
            weights = {name: self._linked(one) for name, one in shown.items()}
            reads.append(self._predicted(weights, token.q)[0])
        end = {f"memory.{name}": one for name, one in stored.items()}
        return torch.cat(reads, 2), end | {f"momentum.{name}": one for name, one in momenta.items()}

    def _written(self, token: Tokens, stored: Weights, momenta: Weights, anchor: Weights) -> tuple[Any, Any]:
        rule, rates = self._rule, self._rule.algorithm.rates(token)
        keep = _shaped(rule.retention.keep(token), rule.retention.axis)
        along = _erased(rule.retention, token)
        gradients, layers = self._gradients(token, anchor, keep)
        new, momentum = {}, {}
        for name, old in stored.items():
            move = -_wide(rates.write) * gradients[name]
            if rates.erase is not None:
                x, _ = layers[name]
                move = move - _wide(rates.erase) * (old @ x.mT @ x)  # of what runs: no gradient, so never frozen
            kept = keep * old if along is None else keep * old - _along(along, old, layers[name][0])
            if rates.momentum is not None:
                move = momentum[name] = _wide(rates.momentum) * momenta[name] + move
            if rule.algorithm.step_map is not None:
                move = orthogonal(move, self._product.algorithm)
            if rates.inject is not None:
                move = _wide(rates.inject) * move
            own: Any = getattr(rule.retention, "advance", None)
            new[name] = kept + move if own is None else own(kept, move)
        return new, momentum

    def _gradients(self, token: Tokens, anchor: Weights, keep: Tensor) -> tuple[dict[str, Tensor], Layers]:
        """dL/dW by autograd, at the weights that the algorithm sees."""
        kept = self._rule.algorithm.at == "kept"
        seen = {name: keep * self._linked(one) if kept else self._linked(one) for name, one in anchor.items()}
        along = _erased(self._rule.retention, token) if kept else None
        for _ in seen if along is not None else ():  # a layer's input is that of the kept layers before it
            layers = self._predicted(seen, token.k)[1]
            seen = {name: keep * one - _along(along, one, layers[name][0]) for name, one in anchor.items()}
        seen = {name: one if one.requires_grad else one.detach().requires_grad_() for name, one in seen.items()}
        prediction, layers = self._predicted(seen, token.k)
        d, distance = cotangent(self._product.bias, prediction, token.v, token)
        self.nearest = min(self.nearest, float(distance.detach().abs().min()))
        found = torch.autograd.grad(prediction, list(seen.values()), d, create_graph=True)
        return dict(zip(seen, found, strict=True)), layers

    def _predicted(self, weights: Weights, x: Tensor) -> tuple[Tensor, Layers]:
        """M(x); a norm of nearly equal numbers turns sharply."""
        y, layers = predict(self._product.structure, self._params, weights, x)
        if self._product.structure.options.get("norm"):
            *_, (_, last) = layers.values()
            self.nearest = min(self.nearest, 1e-2 * float(last.detach().std(-1).min()))
        return y, layers

    def _linked(self, stored: Tensor) -> Tensor:
        link: Callable[[Tensor], Tensor] | None = self._rule.retention.link
        self._away_from_thresholds(stored)
        return stored if link is None else link(stored)

    def _projected(self, stored: Tensor) -> Tensor:
        if self._rule.retention.project is None:
            return stored
        self._away_from_thresholds(stored)
        return self._rule.retention.project(stored)

    def _away_from_thresholds(self, stored: Tensor) -> None:
        """Soft thresholds have a corner, and the exact L_q link an infinite slope at 0, which is felt from afar."""
        options, size = self._product.retention.options, stored.detach().abs()
        if self._product.retention.name.startswith("elastic") and not options.get("smooth"):
            self.nearest = min(self.nearest, float((size - options["threshold"]).abs().min()))
        if options.get("link") == "exact":
            self.nearest = min(self.nearest, 0.02 * float(size.min()))


def _wide(rate: Tensor) -> Tensor:
    return rate.unsqueeze(-1)


def _shaped(keep: Tensor, axis: str) -> Tensor:
    """A decay of one token, as it multiplies a matrix."""
    if axis == "scalar":
        return keep.unsqueeze(-1)
    return keep if axis == "column" else keep.mT
