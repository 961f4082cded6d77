"""Optimizers of the outer loop."""

from typing import Any

import torch

from hecate_core.levels import Conductor
from hecate_core.registry import registry
from hecate_core.shapes import Tensor

from .claims import K, Sides, T, full, identity, normal, read, tokens


def stepped(optimizer: dict[str, Any], grads: list[Tensor]) -> Tensor:
    """A parameter of zeros after these gradients."""
    theta = torch.zeros_like(grads[0]).requires_grad_()
    made = registry().create("optimizer", optimizer, named_parameters=[("theta", theta)], clip=None)
    conductor = Conductor()
    for grad in grads:
        made.step({"theta": grad}, conductor.pulse())
        conductor.advance()
    return theta.detach()


GRADIENTS = [normal(3, 5, seed=seed) for seed in range(20, 27)]


@identity("m3 literal with period 1 steps along its momentum and the one before", "optimizer m3")
def _() -> Sides:
    """The slow memory is then the fast one of the fire before, and Newton-Schulz sees no scale."""
    orthogonal = registry().create("algorithm", "newton-schulz").step_map
    fast, square, before, theta = (torch.zeros(3, 5, dtype=torch.float64) for _ in range(4))
    for grad in GRADIENTS:
        fast, square = fast + 0.9 * grad, square + 0.5 * grad * grad
        now = orthogonal(fast)
        theta = theta - 0.1 * (now + 0.3 * before) / (square.sqrt() + 1e-8)
        before = now
    literal = {"name": "m3", "mode": "literal", "period": 1, "betas": [0.9, 0.5, 0.9], "slow": 0.3, "lr": 0.1}
    return stepped(literal, GRADIENTS), theta


@identity("m3 without a slow step is adamuon", "optimizer m3", "optimizer adamuon")
def _() -> Sides:
    found = stepped({"name": "m3", "slow": 0.0, "weight_decay": 0.1, "lr": 0.1}, GRADIENTS)
    return found, stepped({"name": "adamuon", "lr": 0.1}, GRADIENTS)


@identity("adamuon without newton-schulz is adamw", "optimizer adamuon", "optimizer adamw")
def _() -> Sides:
    found = stepped({"name": "adamuon", "steps": 0, "lr": 0.1}, GRADIENTS)
    return found, stepped({"name": "adamw", "lr": 0.1}, GRADIENTS)


@identity("delta momentum without erase is sgd with momentum", "optimizer delta-momentum", "optimizer sgd")
def _() -> Sides:
    found = stepped({"name": "delta-momentum", "erase": 0.0}, GRADIENTS)
    return found, stepped({"name": "sgd", "momentum": 0.9}, GRADIENTS)


@identity("delta momentum over rank-one gradients is the rule dgd", "optimizer delta-momentum", "rule dgd")
def _() -> Sides:
    """The momentum is a memory: gradients -v k^T write the value v under the unit key k."""
    given = {name: one[:1, :1] for name, one in tokens().items()}
    v, k = given["v"][0, 0], given["k"][0, 0]
    theta = torch.zeros(K, K, dtype=torch.float64, requires_grad=True)
    chosen = {"name": "delta-momentum", "lr": 0.3, "momentum": 0.8, "erase": 0.6}
    made = registry().create("optimizer", chosen, named_parameters=[("theta", theta)])
    conductor, reads = Conductor(), []
    for t in range(T):
        before = theta.detach().clone()
        made.step({"theta": -torch.outer(v[t], k[t])}, conductor.pulse())
        reads.append((theta.detach() - before) @ given["q"][0, 0, t])  # a step is the momentum
        conductor.advance()
    gates = {"retain": 0.8, "write": 0.3, "erase": 0.6}
    rule = {"name": "dgd", "bias": "dot", "erase": "gate"}
    expected = read(rule, given, **{name: full(value)[:1, :1] for name, value in gates.items()})
    return torch.stack(reads)[None, None], expected
