"""Several retentions on one memory: a decay from one, a link or projection from another.

Spec: specs/knobs/joined.md. What cannot stand together is refused with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from hecate_core.compatibility import declared, forgets
from hecate_core.errors import CompositionError
from hecate_core.gates import Gate
from hecate_core.protocols import Retention
from hecate_core.records import Tokens
from hecate_core.registry import registry
from hecate_core.shapes import Tensor

Map = Callable[..., Tensor]


class Joined:
    """The parts' gates, decay, link and domain as one retention.

    `parts` are retentions: names, tables with a name, or objects. At most one may decay, one may stand between memory
    and weights (link, projection, own step), one erase along the input, and all must want the same domain. Raises
    CompositionError otherwise.
    """

    def __init__(self, *, parts: Sequence[Any] = ("scalar",)) -> None:
        made: list[Retention] = [
            registry().create("retention", one) if isinstance(one, (str, Mapping)) else one for one in parts
        ]
        if not made:
            raise CompositionError("joined: no parts; expected one retention or more")
        decaying = _one([one for one in made if forgets(one)], made, "decay the memory: one decay with two gates")
        for one, other in pairwise(sorted({one.domain for one in made} - {"real"})):
            raise CompositionError(f"joined: weights cannot live on the {one} and on the {other}; choose one of them")
        shaping = _one([one for one in made if _shapes(one)], made, "stand between what is stored and the weights")
        self._decaying = decaying
        self.gates: Mapping[str, Gate] = {name: gate for one in made for name, gate in one.gates.items()}
        self.axis, self.decays = decaying.axis, forgets(decaying)
        self.domain = next((one.domain for one in made if one.domain != "real"), "real")
        self.link, self.inverse, self.project = shaping.link, shaping.inverse, shaping.project
        self.advance: Map | None = declared(shaping, "advance")
        erasing = [one for one in made if declared(one, "erase") is not None]
        self.erase: Map | None = declared(_one(erasing, made, "erase along the input"), "erase")

    def keep(self, tokens: Tokens) -> Tensor:
        """The decay of the part that has one."""
        return self._decaying.keep(tokens)


def _shapes(retention: Retention) -> bool:
    between = (retention.link, retention.project, declared(retention, "advance"))
    return any(one is not None for one in between)


def _one(found: list[Retention], made: list[Retention], what: str) -> Retention:
    """The only one, or any of the parts where there is none."""
    if len(found) > 1:
        names = " and ".join(type(one).__name__ for one in found)
        raise CompositionError(f"joined: {names} both {what}; keep one of them")
    return found[0] if found else made[0]
