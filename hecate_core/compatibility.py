"""Which knobs cannot be one rule, and why: derived from what they declare, never from names.

Spec: specs/forms/composed.md, section Validity. What a rule cannot offer to a strategy stands in `composed`.
"""

from typing import Any

from hecate_core.protocols import Algorithm, AttentionalBias, Retention, Structure


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
            "error at the kept memory with a non-linear link: what is kept is not the weights that err",
        ),
        (
            algorithm.erases and elsewhere,
            "the algorithm erases what the weights answer, but the retention stores something else than weights",
        ),
        (
            not (declared(bias, "bounded", True) or structure.linear or decays or curved),
            "the bias has no smallest loss; a memory that is not linear needs a decay or a bounded domain under it",
        ),
    ):
        if wrong:
            return reason
    return None
