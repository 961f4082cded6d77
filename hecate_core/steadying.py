"""Ranges for rules made of knobs: where their gates have to end, derived from what the knobs declare and answer.

Specs: specs/forms/composed.md, Eq. 9 to 14. A rule that names ranges of its own (`narrow`) is not asked.
"""

from collections.abc import Mapping

import attrs
import torch

from hecate_core.gates import Gate, steady_write
from hecate_core.protocols import Algorithm, AttentionalBias, Retention, Structure
from hecate_core.records import Tokens

HERE = "cpu"  # probes are numbers, also where a rule is made on no device

LONGEST = 0.6  # of momenta over errors: steps may then reach 0.2, by steady_write
ERRORS = (1.0, 2.0, 4.0, 8.0)  # lengths of errors that are to be expected of values of unit variance
NETWORK = 20.0  # how much steeper than a matrix a network answers a change of its weights: measured
LENGTH = 8.0  # of values; what a loss without a smallest value adds in a token
FORGETTING = 0.05  # of what such a loss makes grow
STEEP = 2.0  # of a link: weights then grow faster than what is stored
KEPT = 0.5  # the least that a normalised network keeps: what it answers to the next step grows as 1 / weights
HELD = 0.9  # the least that is kept of evidence whose weights are its inverse


def steepness(bias: AttentionalBias) -> float:
    """The largest ratio of a cotangent to its error, over errors of the lengths `ERRORS`; 0 where none follows it."""
    if bias.affine is not None:
        return abs(bias.affine[0])
    values = torch.zeros(1, 1, len(ERRORS), 4, device=HERE)
    predictions = values.clone()
    predictions[..., 0] = torch.tensor(ERRORS, device=HERE)
    gates = {name: torch.full((1, 1, len(ERRORS)), gate.high, device=HERE) for name, gate in bias.gates.items()}
    tokens = Tokens.of({"v": values, **gates})
    with torch.no_grad():
        moved = bias.cotangent(predictions, values, tokens) - bias.cotangent(values, values, tokens)
    return float((torch.linalg.vector_norm(moved, dim=-1) / torch.tensor(ERRORS, device=HERE)).max())


def answers(retention: Retention) -> list[float]:
    """The weights of stored evidence of the lengths `ERRORS` that stands alone in its matrix."""
    if retention.link is None:
        return list(ERRORS)
    stored = torch.zeros(len(ERRORS), 1, 4, 4, device=HERE)
    stored[..., 0, 0] = torch.tensor(ERRORS, device=HERE).view(-1, 1)
    with torch.no_grad():
        moved = retention.link(stored) - retention.link(torch.zeros_like(stored))
    return [float(one) for one in moved.abs().amax((-2, -1)).squeeze(-1)]


def steadied(
    structure: Structure,
    bias: AttentionalBias,
    retention: Retention,
    algorithm: Algorithm,
    gates: Mapping[str, Gate],
) -> dict[str, Gate]:
    """The gates, ended where memories stay bounded for keys in any order. Spec Eq. 9 to 14.

    Nothing is narrowed where weights cannot leave a bounded domain, or where a step is mapped to one of fixed size.
    """
    made = dict(gates)
    if retention.domain != "real":
        return made
    if getattr(structure, "normalised", False):
        return _keeping(made, KEPT)
    weights = answers(retention)
    if weights[-1] < weights[0]:
        return _keeping(made, HELD)  # more evidence makes smaller weights: smaller steps would not help
    stretch = max(one / stored for one, stored in zip(weights, ERRORS, strict=True))
    steep, has_momentum = steepness(bias), algorithm.has_momentum and "momentum" in made
    grows = stretch > STEEP or not (structure.linear or steep or algorithm.step_map)
    if grows:
        made = _forgetting(made)
    elif algorithm.step_map is not None or (structure.linear and not steep):
        return made
    elif structure.linear and bias.affine is not None and not (has_momentum or retention.link):
        return made  # `contracting` knows the bound
    room = 1.0 / max(stretch, 1.0)
    if has_momentum:
        made["momentum"] = _shorter(made["momentum"], LONGEST, 5.0 / 6.0)
        room *= steady_write(made["momentum"].high)
    if steep and "erase" in retention.gates:
        made["erase"], room = _side_by_side(made["erase"], room)
    if steep:
        room /= (steep + (1.0 if algorithm.erases else 0.0)) * (1.0 if structure.linear else NETWORK)
    elif not structure.linear:
        room *= FORGETTING / LENGTH
    for name in set(algorithm.gates) - {"momentum"}:
        made[name] = _shorter(made[name], room, 0.5)
    return made


def _side_by_side(erase: Gate, step: float) -> tuple[Gate, float]:
    """An erase by the retention and a step, both shorter by one factor where together they take out more than all."""
    share = 1.0 / max(1.0, erase.high + step)
    return _shorter(erase, share * erase.high, 0.5), share * step


def _shorter(gate: Gate, high: float, start: float) -> Gate:
    """The gate ended at `high`, its start at no more than that share of the end."""
    high = min(gate.high, high)
    return attrs.evolve(gate, low=min(gate.low, high / 2.0), high=high, init=min(gate.init, high * start))


def _keeping(gates: Mapping[str, Gate], least: float) -> dict[str, Gate]:
    """The gates, with a retain that never drops all."""
    if "retain" not in gates or gates["retain"].low >= least:
        return dict(gates)
    return {**gates, "retain": gates["retain"].narrowed(low=least)}


def _forgetting(gates: Mapping[str, Gate]) -> dict[str, Gate]:
    """The gates, with a retain that drops something of every memory."""
    if "retain" not in gates:
        return dict(gates)
    return {**gates, "retain": _shorter(gates["retain"], 1.0 - FORGETTING, 0.95)}
