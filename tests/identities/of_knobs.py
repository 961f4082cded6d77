"""One knob against another."""

from collections.abc import Mapping
from typing import Any

import torch

from hecate_core.composing import rule_of
from hecate_core.registry import registry
from hecate_core.shapes import Tensor

from .claims import RETAIN, WRITE, B, H, K, Sides, full, identity, knobs, normal, read, run


def same(claim: str, left: dict[str, Any], right: dict[str, Any], *, more: Any = None, other: Any = None) -> None:
    """Two rules made of knobs agree; `more` and `other` are gates beside, or in place of, retain and write."""

    def sides() -> Sides:
        start = {"matrix": normal(H, K, K, seed=3)}
        one = {"retain": RETAIN, "write": WRITE, **(more or {})}
        two = {"retain": RETAIN, "write": WRITE, **(other or {})}
        return _made(left, one, start), _made(right, two, start)

    named = {
        f"{kind} {knob if isinstance(knob, str) else knob['name']}"
        for one in (left, right)
        for kind, knob in one.items()
    }
    identity(claim, *sorted(named))(sides)


def _made(rule: dict[str, Any], gates: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    made = rule_of(rule)
    start = start if "matrix" in made.params else {"w1": start["matrix"]}
    declared: dict[str, Any] = {name: one for name, one in gates.items() if name in made.gates}
    return read(rule, params=start, **declared)


same("an mlp of depth 1 is a matrix", knobs({"name": "mlp", "depth": 1}), knobs())
same("no retention is scalar decay with retain 1", knobs(retention="none"), knobs(), other={"retain": full(1.0)})
same(
    "momentum with momentum 0 is gradient descent",
    knobs(algorithm="momentum"), knobs(), more={"momentum": full(0.0)},
)  # fmt: skip
same(
    "delta descent with erase 0 is gradient descent",
    knobs(algorithm={"name": "dgd", "erase": "gate"}), knobs(), more={"erase": full(0.0)},
)  # fmt: skip
for _axis in ("column", "row"):
    same(
        f"{_axis} decay with equal channels is scalar decay",
        knobs(retention=_axis), knobs(), more={"retain": RETAIN.unsqueeze(-1).expand(-1, -1, -1, K)},
    )  # fmt: skip
for _form in ("switch", "coordinate", "norm"):
    same(
        f"huber with a threshold above every error, {_form}, is l2",
        knobs(bias={"name": "huber", "form": _form}), knobs(), more={"threshold": full(1e6)},
    )  # fmt: skip
same("robust with radius 0 is l2", knobs(bias={"name": "robust", "radius": 0.0}), knobs())
same(
    "lp with p 2, exact, is l2 at twice the rate",
    knobs(bias={"name": "lp", "p": 2.0, "smooth": False}), knobs(), other={"write": 2 * WRITE},
)  # fmt: skip
for _net in ("elastic-ftrl", "elastic-proximal"):
    same(f"{_net} with threshold 0 is scalar decay", knobs(retention={"name": _net, "threshold": 0.0}), knobs())
same("bregman with the square is scalar decay", knobs(retention={"name": "bregman", "potential": "square"}), knobs())
same(
    "bregman with the logistic potential is sigmoid",
    knobs(retention={"name": "bregman", "potential": "logistic"}), knobs(retention="sigmoid"),
)  # fmt: skip
same(
    "the f-divergence kl is kl without decay",
    knobs(retention={"name": "f-divergence", "divergence": "kl"}), knobs(retention={"name": "kl", "decay": False}),
)  # fmt: skip
for _link in ("printed", "dual", "exact"):
    same(
        f"lq with q 2, link {_link}, is scalar decay", knobs(retention={"name": "lq", "q": 2.0, "link": _link}), knobs()
    )


@identity("the dual and the exact link of lq undo each other", "retention lq")
def _() -> Sides:
    weights = normal(B, H, K, K, seed=4)
    dual, exact = (registry().create("retention", {"name": "lq", "q": 4.0, "link": one}) for one in ("dual", "exact"))
    return dual.link(exact.link(weights)), weights


for _loss, _variant in (("l2", "decode"), ("dot", "similarity")):

    @identity(
        f"slots on the sphere under {_loss} are lattice, {_variant}",
        "rule lattice", "structure slots", "retention sphere", f"bias {_loss}",
    )  # fmt: skip
    def _(loss: str = _loss, variant: str = _variant) -> Sides:
        start = {"slots": normal(H, K, K, seed=3)}
        found = run(knobs("slots", loss, "sphere"), params=start, write=WRITE)
        expected = run({"name": "lattice", "variant": variant}, params=start, write=WRITE)
        one, two = (torch.cat((y.flatten(), end.memory.slots.flatten())) for y, end in (found, expected))
        return one, two


@identity("slots with a decay alone are a matrix", "structure slots", "structure matrix")
def _() -> Sides:
    start = normal(H, K, K, seed=3)
    found = read(knobs("slots"), params={"slots": start}, retain=RETAIN, write=WRITE)
    return found, read(knobs(), params={"matrix": start}, retain=RETAIN, write=WRITE)
