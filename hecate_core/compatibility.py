"""Which knobs cannot be one rule, and why: derived from what they declare, never from names.

Specs: specs/validity.md, and for ranges specs/forms/composed.md, Eq. 7 and 8. What a rule cannot offer to a strategy
stands in `composed`.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch

from hecate_core.errors import CompositionError
from hecate_core.gates import Gate
from hecate_core.protocols import Algorithm, AttentionalBias, Retention, Structure
from hecate_core.records import Tokens

ROUNDING = 1e-6  # of float32 rates against the bound


def declared(knob: Any, name: str, default: Any = None) -> Any:
    """An optional declaration of a knob; the protocols say what its absence means."""
    return getattr(knob, name, default)


def forgets(retention: Retention) -> bool:
    """Whether a retention multiplies the memory by something else than 1."""
    return bool(declared(retention, "decays", bool(retention.gates)))


def clash(structure: Structure, bias: AttentionalBias, retention: Retention, algorithm: Algorithm) -> str | None:
    """Why these four cannot be one rule, or None."""
    shape = declared(structure, "domain", "real")
    curved, decays = retention.domain != "real", forgets(retention)
    elsewhere = retention.link is not None or declared(retention, "advance") is not None
    along = declared(retention, "erase") is not None
    for wrong, reason in (
        (
            retention.axis != "scalar" and not structure.linear,
            f"{retention.axis} decay needs a structure that is one matrix",
        ),
        (
            decays and declared(algorithm, "decays", False),
            "retention and algorithm both decay the memory: that is one decay with two gates; drop one of them",
        ),
        (
            "real" not in (shape, retention.domain) and shape != retention.domain,
            f"the structure's weights live on the {shape}, the retention's on the {retention.domain}",
        ),
        (
            curved and retention.link is None and algorithm.has_momentum,
            f"momentum on weights leaves the {retention.domain}; only behind a link can it add up freely",
        ),
        (
            retention.domain == "simplex" and algorithm.step_map is not None,
            "the algorithm maps steps to orthogonal ones, which has no meaning for shares of a mass",
        ),
        (
            algorithm.at == "kept" and elsewhere,
            "error at the kept memory with a non-linear link, or a step of the retention's own: "
            "what is kept is not the weights that err",
        ),
        (
            algorithm.erases and elsewhere,
            "the algorithm erases what the weights answer, but the retention stores something else than weights, "
            "or moves them in a way of its own",
        ),
        (
            along and algorithm.erases,
            "retention and algorithm both erase along the input: that is one erase with two gates; drop one of them",
        ),
        (
            along and elsewhere,
            "the retention erases what the weights answer, but stores something else than weights, "
            "or moves them in a way of its own",
        ),
        (
            not (declared(bias, "bounded", True) or structure.linear or decays or curved),
            "the bias has no smallest loss; a memory that is not linear needs a decay or a bounded domain under it",
        ),
    ):
        if wrong:
            return reason
    return None


def contracting(
    structure: Structure, bias: AttentionalBias, retention: Retention, algorithm: Algorithm, gates: Mapping[str, Gate]
) -> dict[str, Gate]:
    """The gates, rates narrowed to where a memory that is affine in itself cannot grow along a unit key.

    Raises CompositionError where a fixed rate is larger than that. No such bound is known of other memories.
    """
    ranges = dict(gates)
    between = (retention.link, declared(retention, "advance"))
    if not structure.linear or bias.affine is None or any(one is not None for one in between):
        return ranges
    reach, bound = _reach(bias.affine[0], retention, algorithm, ranges)
    if reach <= bound * (1.0 + ROUNDING):
        return ranges
    fixed, _ = _reach(bias.affine[0], retention, algorithm, ranges, scale=0.0)
    share = (bound - fixed) / (reach - fixed) if fixed < bound else 0.0
    for name in _steps(retention, algorithm) if share else ():
        gate = ranges[name]
        ranges[name] = attrs.evolve(gate, low=share * gate.low, high=share * gate.high, init=share * gate.init)
    if _reach(bias.affine[0], retention, algorithm, ranges)[0] > bound * (1.0 + ROUNDING):
        raise CompositionError(
            f"a step takes out up to {reach:g} of what the memory answers to a unit key, at most {bound:g} is stable; "
            "choose a smaller fixed rate"
        )
    return ranges


def _steps(retention: Retention, algorithm: Algorithm) -> set[str]:
    """The gates whose sizes add up along a unit key: the algorithm's rates, and an erase by the retention.

    An error at the kept memory is that of what the retention left: there both factors stand by themselves.
    """
    along = {"erase"} & set(retention.gates) if algorithm.at == "raw" else set()
    return set(algorithm.gates) - {"momentum"} | along


def _reach(
    predicted: float, retention: Retention, algorithm: Algorithm, gates: Mapping[str, Gate], *, scale: float = 1.0
) -> tuple[float, float]:
    """What the largest rates take out along a unit key, and what the smallest keep and momentum can bear.

    `scale` is that of all rates that gates give.
    """
    steps = _steps(retention, algorithm)
    ends = {name: scale * gate.high if name in steps else gate.low for name, gate in gates.items()}
    tokens = _tokens(gates, ends)
    rates = algorithm.rates(tokens)
    reach = predicted * float(rates.write) + (0.0 if rates.erase is None else float(rates.erase))
    if rates.inject is not None:
        reach *= float(rates.inject)
    if algorithm.at == "kept":
        return reach, 2.0
    along = declared(retention, "erase")
    reach += 0.0 if along is None else float(along(tokens))
    keep = float(retention.keep(tokens))
    return reach, (1.0 + keep) * (1.0 if rates.momentum is None else 1.0 + float(rates.momentum))


def stands_apart(algorithm: Algorithm, gates: Mapping[str, Gate]) -> bool:
    """Whether the step is not simply added to the memory: summed in a momentum, mapped, or scaled on its way."""
    if algorithm.has_momentum or algorithm.step_map is not None:
        return True
    return algorithm.rates(_tokens(gates, {name: gate.init for name, gate in gates.items()})).inject is not None


def _tokens(gates: Mapping[str, Gate], values: Mapping[str, float]) -> Tokens:
    """One token with these gates, for asking knobs."""
    one = torch.ones(1, 1, 1, 1, device="cpu")
    made = {name: one * size if gates[name].width is not None else one[..., 0] * size for name, size in values.items()}
    return Tokens.of({"q": one, **made})
