"""Limit cases in which one member is another: both run on the same tokens in float64 and agree to rounding.

Each identity names the members it speaks of; one that speaks of a member nobody registered is skipped by name, and the
suite fails when too few are left. Sources: section "Identities" of each specification.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import frozen

from hecate_core import memory
from hecate_core.composing import rule_of
from hecate_core.errors import CompositionError
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.levels import Conductor
from hecate_core.parameters import initial_params
from hecate_core.records import State
from hecate_core.registry import registry
from hecate_core.shapes import Tensor

EXACT = 1e-11  # float64, other orders of the same sums over 13 tokens
LEAST = 12  # with this few left the suite says nothing
B, H, T, K = 2, 2, 13, 4  # values as wide as keys: residual memories ask for it
WIDTHS = {"H": H, "K": K, "V": K}

Sides = tuple[Tensor, Tensor]


@frozen
class Identity:
    """A claim `found == expected`, and the members, "kind name", that it is about."""

    claim: str
    needs: tuple[str, ...]
    sides: Callable[[], Sides]

    @property
    def missing(self) -> list[str]:
        """Which of its members are not registered."""
        return [one for one in self.needs if one.split()[1] not in registry().names(one.split()[0])]


IDENTITIES: list[Identity] = []


def identity(claim: str, *needs: str) -> Callable[[Callable[[], Sides]], Callable[[], Sides]]:
    def add(sides: Callable[[], Sides]) -> Callable[[], Sides]:
        IDENTITIES.append(Identity(claim, needs, sides))
        return sides

    return add


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(**changes: Tensor) -> dict[str, Tensor]:
    """Unit keys, any queries and values."""
    made = {name: normal(B, H, T, K, seed=seed) for seed, name in enumerate("qkv")}
    return {**made, "k": F.normalize(made["k"], dim=-1), **changes}


def gate(seed: int, low: float = 0.0, high: float = 1.0, width: int | None = None) -> Tensor:
    shape = (B, H, T) if width is None else (B, H, T, width)
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full(value: float, width: int | None = None) -> Tensor:
    return torch.full((B, H, T) if width is None else (B, H, T, width), value, dtype=torch.float64)


RETAIN, WRITE = gate(11, 0.5), gate(12, 0.0, 0.5)


def run(rule: Any, given: Mapping[str, Tensor] | None = None, **more: Any) -> tuple[Tensor, State]:
    """`memory` with `retain`, `write` ... as gates; `strategy`, `chunk_size`, `params`, `state` as they are."""
    options = {key: more.pop(key) for key in ("strategy", "chunk_size", "params", "state") if key in more}
    options = {"strategy": "sequential", **options}
    y, state = memory(**(tokens() if given is None else given), rule=rule, gates=more, **options)
    return y, state


def read(rule: Any, given: Mapping[str, Tensor] | None = None, **more: Any) -> Tensor:
    return run(rule, given, **more)[0]


def first_params(rule: Any) -> dict[str, Tensor]:
    """The declared start, drawn: the same names and seed give the same numbers."""
    return dict(initial_params(rule_of(rule), WIDTHS, dtype=torch.float64))


def knobs(
    structure: Any = "matrix", bias: Any = "l2", retention: Any = "scalar", algorithm: Any = "gd"
) -> dict[str, Any]:
    return {"structure": structure, "bias": bias, "retention": retention, "algorithm": algorithm}


# --- the affine family -------------------------------------------------------------------------------------------


@identity("delta with write 0 is pure decay", "rule delta")
def _() -> Sides:
    _, before = run("delta", retain=RETAIN, write=WRITE)
    _, after = run("delta", retain=RETAIN, write=full(0.0), state=before)
    return after.memory.matrix, RETAIN.prod(-1)[..., None, None] * before.memory.matrix


@identity("delta with write 1 and a unit key stores the value", "rule delta")
def _() -> Sides:
    given = tokens()
    return read("delta", {**given, "q": given["k"]}, retain=RETAIN, write=full(1.0)), given["v"]


@identity("kda with write 1 and a unit key stores the value", "rule kda")
def _() -> Sides:
    given = tokens()
    asked = {**given, "q": given["k"]}
    return read("kda", asked, retain=gate(11, width=K), write=full(1.0)), given["v"]


@identity("delta recalls orthonormal keys perfectly", "rule delta")
def _() -> Sides:
    keys = torch.linalg.qr(normal(B, H, K, K, seed=5)).Q
    v, ones = normal(B, H, K, K, seed=6), torch.ones(B, H, K, dtype=torch.float64)
    _, state = memory(keys, keys, v, rule="delta", gates={"retain": ones, "write": ones})
    return (state.memory.matrix @ keys.mT).mT, v


@identity("kda with equal channels is delta", "rule kda", "rule delta")
def _() -> Sides:
    wide = RETAIN.unsqueeze(-1).expand(-1, -1, -1, K)
    return read("kda", retain=wide, write=WRITE), read("delta", retain=RETAIN, write=WRITE)


@identity("titans with momentum 0 is delta, error first", "rule titans", "rule delta")
def _() -> Sides:
    found = read("titans", retain=RETAIN, write=WRITE, momentum=full(0.0))
    return found, read({"name": "delta", "at": "raw"}, retain=RETAIN, write=WRITE)


@identity("titans with momentum 0 is delta, decay first, at write / retain on retain v", "rule titans", "rule delta")
def _() -> Sides:
    found = read("titans", retain=RETAIN, write=WRITE, momentum=full(0.0))
    scaled = {**tokens(), "v": RETAIN.unsqueeze(-1) * tokens()["v"]}
    return found, read("delta", scaled, retain=RETAIN, write=WRITE / RETAIN)


@identity("dgd with the dot bias is delta, error first", "rule dgd", "rule delta")
def _() -> Sides:
    return read("dgd", retain=RETAIN, write=WRITE), read({"name": "delta", "at": "raw"}, retain=RETAIN, write=WRITE)


@identity("dgd with l2 is delta at twice the rate on half the value", "rule dgd", "rule delta")
def _() -> Sides:
    found = read({"name": "dgd", "bias": "l2"}, retain=RETAIN, write=WRITE)
    halved = {**tokens(), "v": tokens()["v"] / 2}
    return found, read({"name": "delta", "at": "raw"}, halved, retain=RETAIN, write=2 * WRITE)


@identity("dgd with l2 and erase 0 is delta, error first", "rule dgd", "rule delta")
def _() -> Sides:
    found = read({"name": "dgd", "bias": "l2", "erase": "gate"}, retain=RETAIN, write=WRITE, erase=full(0.0))
    return found, read({"name": "delta", "at": "raw"}, retain=RETAIN, write=WRITE)


@identity("hebbian with retain 1 and write 1 is linear", "rule hebbian", "rule linear")
def _() -> Sides:
    return read("hebbian", retain=full(1.0), write=full(1.0)), read("linear")


@identity("linear is attention without the softmax", "rule linear")
def _() -> Sides:
    given = tokens()
    return read("linear"), torch.tril(given["q"] @ given["k"].mT) @ given["v"]


# --- Omega and Atlas ---------------------------------------------------------------------------------------------

PLAIN_OMEGA = {"name": "omega", "window": 1, "features": "identity"}


@identity("omega with window 1 is delta, error first", "rule omega", "rule delta")
def _() -> Sides:
    found = read(PLAIN_OMEGA, retain=RETAIN, write=WRITE, window=full(1.0, 1))
    return found, read({"name": "delta", "at": "raw"}, retain=RETAIN, write=WRITE)


@identity("omega with window 1, momentum and a constant rate is titans", "rule omega", "rule titans")
def _() -> Sides:
    constant, momentum = full(0.2), gate(13, 0.0, 0.9)
    rule = {**PLAIN_OMEGA, "momentum": True}
    found = read(rule, retain=RETAIN, write=constant, momentum=momentum, window=full(1.0, 1))
    return found, read("titans", retain=RETAIN, write=constant, momentum=momentum)


@identity("omega that gives the past no weight has window 1", "rule omega")
def _() -> Sides:
    now = torch.cat((full(1.0, 1), full(0.0, 2)), -1)
    found = read({**PLAIN_OMEGA, "window": 3}, retain=RETAIN, write=WRITE, window=now)
    return found, read(PLAIN_OMEGA, retain=RETAIN, write=WRITE, window=full(1.0, 1))


@identity("atlas with window 1 is the knob newton-schulz", "rule atlas", "algorithm newton-schulz")
def _() -> Sides:
    gates: dict[str, Any] = {"retain": RETAIN, "write": WRITE, "momentum": gate(13, 0.0, 0.9)}
    found = read({"name": "atlas", "window": 1, "features": "identity"}, window=full(1.0, 1), **gates)
    return found, read(knobs(algorithm="newton-schulz"), **gates)


# --- MLP memories ------------------------------------------------------------------------------------------------


@identity("titans-deep with depth 1 is titans from the same start", "rule titans-deep", "rule titans")
def _() -> Sides:
    rule = {"name": "titans-deep", "depth": 1}
    gates: dict[str, Any] = {"retain": RETAIN, "write": WRITE, "momentum": gate(13, 0.0, 0.9)}
    start = first_params(rule)
    return read(rule, params=start, **gates), read("titans", params={"matrix": start["w1"]}, **gates)


@identity("yaad with a threshold above every error is titans-deep with momentum 0", "rule yaad", "rule titans-deep")
def _() -> Sides:
    deep, params = {"name": "titans-deep", "residual": True, "norm": True}, first_params("yaad")
    found = read("yaad", params=params, retain=RETAIN, write=0.1 * WRITE, threshold=full(1e6))
    return found, read(deep, params=params, retain=RETAIN, write=0.1 * WRITE, momentum=full(0.0))


def _moneta(link: str) -> Sides:
    rule = {"name": "moneta", "p": 2.0, "q": 2.0, "link": link, "smooth": False, "depth": 1}
    rule |= {"residual": False, "norm": False}
    start = first_params(rule)
    found = read(rule, params=start, retain=RETAIN.clamp(min=0.9), write=0.2 * WRITE)
    plain = {"name": "delta", "at": "raw"}
    return found, read(plain, params={"matrix": start["w1"]}, retain=RETAIN.clamp(min=0.9), write=0.4 * WRITE)


for _link in ("printed", "dual", "exact"):
    identity(f"moneta with p 2 and q 2, link {_link}, is delta at twice the rate", "rule moneta", "rule delta")(
        lambda link=_link: _moneta(link)  # type: ignore[misc]
    )


@identity("memora with retain 1 and write 0 changes nothing", "rule memora")
def _() -> Sides:
    before = run("memora", retain=RETAIN, write=WRITE)[1]
    after = run("memora", retain=full(1.0), write=full(0.0), state=before)[1]
    return after.memory.w1, before.memory.w1


@identity("memora with retain 0 and write 0 has uniform columns", "rule memora", "retention kl")
def _() -> Sides:
    after = run("memora", params=first_params("memora"), retain=full(0.0), write=full(0.0))[1]
    shares = registry().create("retention", "kl").link(after.memory.w1)
    return shares, torch.full_like(shares, 1.0 / shares.shape[-2])


@identity("memora's columns always sum to its mass", "rule memora", "retention kl")
def _() -> Sides:
    after = run({"name": "memora", "mass": 3.0}, params=first_params("memora"), retain=RETAIN, write=WRITE)[1]
    made: Any = rule_of({"name": "memora", "mass": 3.0})
    sums = made.retention.link(after.memory.w2).sum(-2)
    return sums, torch.full_like(sums, 3.0)


@identity("kl: the recurrence of the weights is that of the logits", "retention kl", "bias l2")
def _() -> Sides:
    """W <- softmax(retain log W - write g), by hand, against stored logits."""
    given, start = tokens(), normal(H, K, K, seed=7)
    weights, reads = torch.softmax(start, -2).expand(B, H, K, K), []
    for t in range(T):
        q, k, v = (given[name][:, :, t].unsqueeze(-1) for name in "qkv")
        kept, rate = RETAIN[:, :, t, None, None], WRITE[:, :, t, None, None]
        weights = torch.softmax(kept * weights.log() - rate * ((weights @ k - v) @ k.mT), -2)
        reads.append((weights @ q).squeeze(-1))
    found = read(knobs(retention="kl"), params={"matrix": start}, retain=RETAIN, write=WRITE)
    return found, torch.stack(reads, 2)


# --- Lattice and Trellis -----------------------------------------------------------------------------------------


@identity("lattice's slots stay on the sphere", "rule lattice")
def _() -> Sides:
    after = run("lattice", params=first_params("lattice"), write=gate(12))[1]
    lengths = after.memory.slots.norm(dim=-2)
    return lengths, torch.ones_like(lengths)


@identity("lattice with write 0 stays where it is", "rule lattice")
def _() -> Sides:
    before = run("lattice", params=first_params("lattice"), write=gate(12))[1]
    return run("lattice", write=full(0.0), state=before)[1].memory.slots, before.memory.slots


@identity("lattice with one slot ignores a value along it", "rule lattice")
def _() -> Sides:
    slots = F.normalize(normal(H, K, 1, seed=8), dim=-2)
    along = 3.0 * slots.squeeze(-1)[None, :, None].expand(B, H, T, K)
    one = torch.ones(B, H, T, 1, dtype=torch.float64)
    _, state = memory(
        one, one, along, rule="lattice", gates={"write": gate(12)}, strategy="sequential", params={"slots": slots}
    )
    return state.memory.slots, slots.expand(B, H, K, 1)


@identity("trellis with identity maps is two delta rules, error first", "rule trellis", "rule delta")
def _() -> Sides:
    """The first stores the code under keys; the second the code under values, and is read through its transpose."""
    rule = {"name": "trellis", "phi": "identity", "f": "identity", "out": "identity", "rate": "plain"}
    given, code, rate = tokens(), normal(B, H, T, K, seed=9), 0.01 * WRITE
    start, plain = first_params(rule), {"name": "delta", "at": "raw"}
    after = run(rule, {**given, "code": code}, params=start, retain=RETAIN, write=rate)[1].memory
    firsts = {"keys_to_slots": start["keys_to_slots"], "slots_to_values": start["slots_to_values"].mT}
    found = {"keys_to_slots": after.keys_to_slots, "slots_to_values": after.slots_to_values.mT}
    expected = []
    for name, entered in zip(firsts, ("k", "v"), strict=True):
        asked = {"q": given[entered], "k": given[entered], "v": code}
        state = run(plain, asked, params={"matrix": firsts[name]}, retain=RETAIN, write=rate)[1]
        expected.append(state.memory.matrix)
    return torch.cat(list(found.values())), torch.cat(expected)


# --- one knob against another ------------------------------------------------------------------------------------


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


# --- strategies --------------------------------------------------------------------------------------------------


def _tnt(**options: Any) -> Tensor:
    return read(
        "titans", retain=RETAIN, write=0.4 * WRITE, momentum=gate(13, 0.0, 0.9), strategy={"name": "tnt", **options}
    )


def _titans(strategy: Any, chunk: int) -> Tensor:
    gates: dict[str, Any] = {"retain": RETAIN, "write": 0.4 * WRITE, "momentum": gate(13, 0.0, 0.9)}
    return read("titans", strategy=strategy, chunk_size=chunk, **gates)


@identity("tnt with one local memory over everything is frozen", "strategy tnt", "rule titans")
def _() -> Sides:
    found = _tnt(global_chunk=0, local_chunks=[4], shards=[64], project=False)
    return found, _titans("frozen", 4)


@identity("tnt with local chunk 1 and nothing else is the rule itself", "strategy tnt", "rule titans")
def _() -> Sides:
    found = _tnt(global_chunk=0, local_chunks=[1], shards=[64], project=False)
    return found, _titans("sequential", 1)


@identity("tnt without local memories is frozen read at its anchor", "strategy tnt", "rule titans")
def _() -> Sides:
    found = _tnt(global_chunk=4, local_chunks=[], shards=[])
    return found, _titans({"name": "frozen", "read": "anchor"}, 4)


# --- optimizers --------------------------------------------------------------------------------------------------


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


# --- every rule, whatever it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("one", IDENTITIES, ids=lambda one: one.claim.replace(" ", "-"))
def test_two_members_are_one_in_the_limit(one: Identity) -> None:
    if one.missing:
        pytest.skip(f"not registered: {', '.join(one.missing)}")
    found, expected = one.sides()
    assert found.shape == expected.shape
    assert expected.abs().max() > 1e-3, "both sides are nothing"
    assert float((found - expected).abs().max()) < EXACT * max(1.0, float(expected.abs().max()))


def test_enough_identities_are_there() -> None:
    """Most are about first-party members; a workspace without them checks next to nothing and says so."""
    applying = [one.claim for one in IDENTITIES if not one.missing]
    assert len(applying) >= LEAST, f"only {len(applying)} of {len(IDENTITIES)} apply"
    assert len({one.claim for one in IDENTITIES}) == len(IDENTITIES) >= 25


RULES = [
    name for name in registry().names("rule") if {"q", "k", "v"} <= set(rule_of(name).inputs)
]  # as `memory` takes them


def random_tokens(name: str) -> dict[str, Any]:
    """Inputs of a rule and gates inside their ranges, as `memory` takes them."""
    from hecate_core.testing.samples import tokens_for
    from hecate_core.widths import full_widths

    rule = rule_of(name)
    made = tokens_for(rule, full_widths(rule, WIDTHS), T, inner=True)
    gates = {gate: made[gate] for gate in rule.gates}
    return {"gates": gates, "params": first_params(name), **{one: made[one] for one in rule.inputs}}


@pytest.mark.parametrize("name", RULES)
def test_one_run_is_two_with_the_state_carried(name: str) -> None:
    given = random_tokens(name)
    whole, end = memory(rule=name, strategy="sequential", **given)
    halves, state = [], None
    for part in (slice(0, 5), slice(5, T)):
        cut = {key: one[:, :, part] for key, one in given.items() if isinstance(one, Tensor)}
        gates = {key: one[:, :, part] for key, one in given["gates"].items()}
        y, state = memory(rule=name, strategy="sequential", state=state, gates=gates, params=given["params"], **cut)
        halves.append(y)
    assert float((torch.cat(halves, 2) - whole).abs().max()) < EXACT
    assert state is not None
    assert all(float((one - end.flat()[key]).abs().max()) < EXACT for key, one in state.flat().items())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("strategy", "chunk"), [("frozen", 1), ("chunkwise", 1), ("chunkwise", 5), ("chunkwise", 64)])
def test_a_strategy_is_sequential_where_it_must_be(name: str, strategy: str, chunk: int) -> None:
    rule = rule_of(name)
    form: object = rule.offers(Linearised) if strategy == "frozen" else rule.offers(Affine)
    if isinstance(form, Refused):
        with pytest.raises(CompositionError):
            memory(rule=name, strategy=strategy, chunk_size=chunk, **random_tokens(name))
        return
    given = random_tokens(name)
    y, end = memory(rule=name, strategy="sequential", **given)
    z, other = memory(rule=name, strategy=strategy, chunk_size=chunk, **given)
    assert float((y - z).abs().max()) < 100 * EXACT * max(1.0, float(y.abs().max()))
    flat = other.flat()
    shared = [key for key in end.flat() if key in flat]
    assert any(key.startswith("memory") for key in shared)
    assert all(float((end.flat()[key] - flat[key]).abs().max()) < 100 * EXACT for key in shared)


def test_an_identity_that_does_not_hold_is_found() -> None:
    """The decay first instead of the error first: the comparison sees it."""
    found, expected = (
        read("titans", retain=RETAIN, write=WRITE, momentum=full(0.0)),
        read("delta", retain=RETAIN, write=WRITE),
    )
    assert float((found - expected).abs().max()) > 1e-3
