"""Every form in which a knob is registered, every rule that four of them make, and a small set that covers the pairs.

Names come from the registry; what of a component changes its mathematics stands below, and `test_knob_products.py`
says so when an option that chooses by a word or by yes and no is missing here.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from attrs import frozen

from hecate_core.checking.cells import variants
from hecate_core.composed import ComposedRule
from hecate_core.errors import CompositionError
from hecate_core.registry import registry

KNOBS = ("structure", "bias", "retention", "algorithm")
NARROW = 4 / 3  # of hidden widths: 4 for keys of 3

# Options by "kind name"; numbers are chosen such that both sides of a threshold occur.
ELSEWHERE = ("learn_start",)  # where a memory starts, not what it does
FORMS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "structure matrix": [{}],
    "structure mlp": [
        {"expansion": NARROW},
        {"depth": 1},
        {"expansion": NARROW, "activation": "silu"},
        {"expansion": NARROW, "depth": 3},
        {"expansion": NARROW, "residual": True},
        {"expansion": NARROW, "norm": True},
        {"expansion": NARROW, "residual": True, "norm": True, "activation": "silu"},
    ],
    "bias lp": [{}, {"smooth": False}, {"p": 1.5, "smooth": False}, {"p": 2.0, "smooth": False}],
    "bias huber": [
        {},
        {"unit": "rms"},
        {"form": "coordinate"},
        {"form": "norm"},
        {"form": "norm", "unit": "rms"},
    ],
    "retention kl": [{}, {"over": "row", "mass": 3.0}, {"over": "all", "mass": 3.0, "decay": False}],
    "retention f-divergence": [{"divergence": one} for one in ("kl", "chi2", "hellinger", "reverse-kl")],
    "retention bregman": [
        {"potential": "square"},
        {"potential": "entropy"},
        {"potential": "logistic", "decay": False},
        {"potential": "hypentropy", "scale": 0.5},
    ],
    "retention sigmoid": [{}, {"decay": False}],
    "retention directional": [{}, {"decay": False}],
    "retention elastic-ftrl": [{"threshold": 0.2}, {"threshold": 0.2, "smooth": True, "decay": False}],
    "retention elastic-proximal": [{"threshold": 0.1}],
    "retention lq": [{}, {"link": "dual"}, {"link": "exact", "decay": False}],
    "retention joined": [
        {"parts": ["column", {"name": "lq", "link": "dual", "decay": False}]},
        {"parts": ["column", {"name": "directional", "decay": False}]},
    ],
    "algorithm gd": [{}, {"at": "kept"}, {"rate": 0.1}],
    "algorithm dgd": [{}, {"erase": "gate"}],
    "algorithm newton-schulz": [{}, {"rate": "inside"}, {"coefficients": "polar"}],
}


@frozen(eq=False)
class Form:
    """A component and the options that give it this form."""

    kind: str
    name: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        shown = ",".join(f"{key}={self._short(value)}" for key, value in self.options.items() if key != "expansion")
        return f"{self.name}({shown})" if shown else self.name

    @staticmethod
    def _short(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value).replace(" ", "")


@cache
def forms(kind: str) -> list[Form]:
    """Every registered component of a kind in each of its forms; a stranger's as `hecate check` varies it."""
    found = []
    for name in registry().names(kind):
        given = FORMS.get(f"{kind} {name}")
        if given is None:
            varied = [one if isinstance(one, Mapping) else {"name": one} for one in variants(kind)]
            given = [{k: v for k, v in one.items() if k != "name"} for one in varied if one["name"] == name]
        found += [Form(kind, name, options) for options in given]
    return found


@frozen(eq=False)
class Product:
    """Four forms that make a rule."""

    structure: Form
    bias: Form
    retention: Form
    algorithm: Form

    def __str__(self) -> str:
        return " ".join(str(form) for form in self.forms)

    @property
    def forms(self) -> tuple[Form, Form, Form, Form]:
        """All four, in order."""
        return self.structure, self.bias, self.retention, self.algorithm


def products() -> tuple[dict[Product, ComposedRule], dict[Product, str]]:
    """What the derived validity calls a rule, and what it refuses with the reason."""
    made = {
        form: registry().create(kind, {"name": form.name, **form.options}) for kind in KNOBS for form in forms(kind)
    }
    rules, refused = {}, {}
    for four in itertools.product(*(forms(kind) for kind in KNOBS)):
        product = Product(*four)
        knobs = dict(zip(KNOBS, (made[form] for form in four), strict=True))
        try:
            rules[product] = ComposedRule("of knobs", **knobs)
        except CompositionError as error:
            refused[product] = str(error)
    return rules, refused


def covering(given: Sequence[Product]) -> list[Product]:
    """A part of the products in which every pair of forms that occurs in one of them occurs again."""
    draw, left, chosen = random.Random(0), dict.fromkeys(pair for one in given for pair in _pairs(one)), []
    holding: dict[Any, list[Product]] = {}
    for one in given:
        for pair in _pairs(one):
            holding.setdefault(pair, []).append(one)
    while left:
        pair = next(iter(left))
        some = draw.sample(holding[pair], min(24, len(holding[pair])))
        best = max(some, key=lambda one: sum(other in left for other in _pairs(one)))
        chosen.append(best)
        for other in _pairs(best):
            left.pop(other, None)
    return chosen


def _pairs(one: Product) -> list[tuple[Form, Form]]:
    return list(itertools.combinations(one.forms, 2))
