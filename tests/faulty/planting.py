"""A planted fault: a member, what was done to it, and the check that must tell it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hecate_core.api import L2, ComposedRule, Matrix, Momentum, ScalarDecay
from hecate_core.testing import Check, check_composition

DELTA = {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": {"name": "gd", "at": "kept"}}


class Fault(NamedTuple):
    """What was done to the member, the check that finds it, and how to run the kit over it."""

    told_by: str
    run: Callable[[], Iterator[Check]]


FAULTS: dict[str, Fault] = {}


def planted(told_by: str, kit: Callable[..., Iterator[Check]], **options: Any) -> Callable[[Any], Any]:
    """Add a faulty class or factory under its own name."""

    def add(made: Any) -> Any:
        member = made if kit is check_composition else made()
        FAULTS[made.__name__] = Fault(told_by, lambda: kit(member, **options))
        return made

    return add


def composed(kind: type[ComposedRule] = ComposedRule, **knobs: Any) -> ComposedRule:
    chosen: dict[str, Any] = {"structure": Matrix(), "bias": L2(), "retention": ScalarDecay(), **knobs}
    chosen.setdefault("algorithm", Momentum())
    return kind("faulty", **chosen)
