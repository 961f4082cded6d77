"""One knob against another."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch

from hecate_core.composing import rule_of
from hecate_core.registry import registry
from hecate_core.shapes import Tensor

from .claims import EXPONENTS, RETAIN, WRITE, B, H, K, Sides, T, full, identity, knobs, normal, read, run, tokens


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
for _at in ("raw", "kept"):
    same(
        f"a directional retention under {_at} descent, dot bias, is delta descent",
        knobs(bias="dot", retention="directional", algorithm={"name": "gd", "at": _at}),
        knobs(bias="dot", algorithm="dgd"), more={"erase": WRITE},
    )  # fmt: skip
    same(
        f"a directional retention under {_at} descent, erase 0, is scalar decay",
        knobs(retention="directional", algorithm={"name": "gd", "at": _at}),
        knobs(algorithm={"name": "gd", "at": _at}), more={"erase": full(0.0)},
    )  # fmt: skip
same(
    "a directional retention with the dot bias is error-first gated delta",
    knobs(bias="dot", retention="directional"), knobs(), more={"erase": WRITE},
)  # fmt: skip
same(
    "a directional retention with l2 is delta descent with an erase of its own",
    knobs(retention="directional"), knobs(algorithm={"name": "dgd", "erase": "gate"}),
    more={"erase": 0.5 * WRITE}, other={"erase": 0.5 * WRITE},
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


@identity("bregman with the logistic potential is sigmoid", "retention bregman", "retention sigmoid", "bias l2")
def _() -> Sides:
    """W <- sigmoid(retain logit W - write g), by hand, against both."""
    given, start, reads = tokens(), normal(H, K, K, seed=3), []
    weights = torch.sigmoid(start).expand(B, H, K, K)
    for t in range(T):
        q, k, v = (given[name][:, :, t].unsqueeze(-1) for name in "qkv")
        kept, rate = RETAIN[:, :, t, None, None], WRITE[:, :, t, None, None]
        weights = torch.sigmoid(kept * torch.logit(weights) - rate * ((weights @ k - v) @ k.mT))
        reads.append((weights @ q).squeeze(-1))
    both = ({"name": "bregman", "potential": "logistic"}, "sigmoid")
    found = [read(knobs(retention=one), params={"matrix": start}, retain=RETAIN, write=WRITE) for one in both]
    return torch.stack(found), torch.stack(reads, 2).expand(2, -1, -1, -1, -1)


same(
    "the f-divergence kl is kl without decay",
    knobs(retention={"name": "f-divergence", "divergence": "kl"}), knobs(retention={"name": "kl", "decay": False}),
)  # fmt: skip
for _link, _beside in product(("printed", "dual", "exact"), EXPONENTS):
    same(
        f"lq with q {_beside}, link {_link}, is scalar decay",
        knobs(retention={"name": "lq", "q": EXPONENTS[_beside], "link": _link}), knobs(),
    )  # fmt: skip


@identity("the links of lq with q 2 leave the evidence as it is", "retention lq")
def _() -> Sides:
    from hecate_miras.links import powered, printed

    evidence = normal(B, H, K, K, seed=4)
    return torch.stack((printed(evidence, 2.0), powered(evidence, 2.0))), evidence.expand(2, -1, -1, -1, -1)


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
