"""MLP memories, and rules with a step of their own."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from hecate_core import memory
from hecate_core.composing import rule_of, strategy_of
from hecate_core.records import State
from hecate_core.registry import registry
from hecate_core.shapes import Tensor
from hecate_core.testing.samples import RuleCase

from .claims import (
    EXPONENTS,
    RETAIN,
    WIDTHS,
    WRITE,
    B,
    H,
    K,
    Sides,
    T,
    first_params,
    full,
    gate,
    identity,
    knobs,
    normal,
    read,
    run,
    tokens,
)


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


def _moneta(link: str, q: float) -> Sides:
    rule = {"name": "moneta", "p": 2.0, "q": q, "link": link, "smooth": False, "depth": 1}
    rule |= {"residual": False, "norm": False}
    start = first_params(rule)
    found = read(rule, params=start, retain=RETAIN.clamp(min=0.9), write=0.2 * WRITE)
    plain = {"name": "delta", "at": "raw"}
    return found, read(plain, params={"matrix": start["w1"]}, retain=RETAIN.clamp(min=0.9), write=0.4 * WRITE)


for _link, _beside in product(("printed", "dual", "exact"), EXPONENTS):
    identity(f"moneta with p 2 and q {_beside}, link {_link}, is delta at twice the rate", "rule moneta", "rule delta")(
        lambda link=_link, q=EXPONENTS[_beside]: _moneta(link, q)  # type: ignore[misc]
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


@identity("memora: the recurrence of its weights is that of its logits", "rule memora")
def _() -> Sides:
    """W <- mass softmax(retain log W - write g) of both layers, by hand, against stored logits."""
    rule = {"name": "memora", "mass": 4.0, "residual": False, "norm": False}
    given, start, reads = tokens(), first_params(rule), []
    weights = {name: 4.0 * torch.softmax(start[name], -2).expand(B, *start[name].shape) for name in ("w1", "w2")}
    for t in range(T):
        q, k, v = (given[name][:, :, t].unsqueeze(-1) for name in "qkv")
        kept, rate = RETAIN[:, :, t, None, None], 0.1 * WRITE[:, :, t, None, None]
        leaves = {name: one.detach().requires_grad_() for name, one in weights.items()}
        error = leaves["w2"] @ F.gelu(leaves["w1"] @ k) - v
        steps = torch.autograd.grad(0.5 * error.square().sum(), list(leaves.values()))
        weights = {
            name: 4.0 * torch.softmax(kept * one.log() - rate * step, -2)
            for (name, one), step in zip(weights.items(), steps, strict=True)
        }
        reads.append((weights["w2"] @ F.gelu(weights["w1"] @ q)).squeeze(-1))
    return read(rule, params=start, retain=RETAIN, write=0.1 * WRITE), torch.stack(reads, 2)


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


def _self_modified() -> tuple[RuleCase, Tensor, dict[str, Tensor]]:
    """The rule at hand, then its reads and the memories that it leaves, by a loop whose inner gradients are autograd's.

    W <- retain W - write W z z^T / (1 - write + write |z|^2) - write grad 1/2 |M(k) - M(v)|^2, z what W meets of k; a
    memory is z + W2 gelu(W1 z).
    """
    case = RuleCase(rule_of("self-modifying-titans"), widths=WIDTHS)
    rule: Any = case.rule
    given, params, reads = case.tokens(T, inner=True), case.params, []
    memories = {name: params[name].expand(B, H, K, K) for name in params if name.endswith(("_w1", "_w2"))}
    parts = [name.removesuffix("_w1") for name in memories if name.endswith("_w1")]

    def hidden(part: str, z: Tensor, of: Mapping[str, Tensor]) -> Tensor:
        return F.gelu(of[f"{part}_w1"] @ z)

    def answer(part: str, z: Tensor, of: Mapping[str, Tensor]) -> Tensor:
        return z + of[f"{part}_w2"] @ hidden(part, z, of)

    def rate(name: str, made: Tensor) -> Tensor:
        gate, row = rule.rates[name], params[f"{name}_row"]
        first = torch.logit(torch.tensor((gate.init - gate.low) / (gate.high - gate.low), dtype=torch.float64))
        raw = (made.squeeze(-1) * row).sum(-1) + params[f"{name}_shift"] + first
        used: Tensor = gate.low + (gate.high - gate.low) * torch.sigmoid(raw)
        return used[..., None, None]

    def erased(write: Tensor, z: Tensor) -> Tensor:
        return write / (1 - write + write * z.square().sum(-2, keepdim=True))

    for t in range(T):
        q, x = (given[name][:, :, t].unsqueeze(-1) for name in "qx")
        key, value = (answer(name, x, memories) for name in ("key", "value"))
        write, retain = (rate(name, answer(name, x, memories)) for name in ("write", "retain"))
        k = key / (key.square().sum(-2, keepdim=True) + 1e-12).sqrt()
        v = value / value.norm(dim=-2, keepdim=True).clamp(min=1.0)
        leaves = {name: one.detach().requires_grad_() for name, one in memories.items()}
        loss = sum((answer(part, k, leaves) - answer(part, v, memories)).square().sum() for part in parts) / 2
        slopes = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))  # type: ignore[arg-type]
        met = {f"{part}_w1": k for part in parts} | {f"{part}_w2": hidden(part, k, memories) for part in parts}
        memories = {
            name: retain * one - erased(write, met[name]) * one @ met[name] @ met[name].mT - write * slopes[name]
            for name, one in memories.items()
        }
        reads.append(answer("main", q, memories).squeeze(-1))
    return case, torch.stack(reads, 2), memories


def _as_self_modified(case: RuleCase, strategy: Any) -> tuple[Tensor, State]:
    """Reads of memories that make their own keys and values; `memory` has no door for them."""
    made = strategy_of(strategy, case.rule)
    return made(case.rule, case.params, case.tokens(T, inner=True), made.init_state(case.rule, case.params, B))


TOKEN_BY_TOKEN: list[Any] = ["sequential", {"name": "frozen", "chunk": 1}]


@identity("self-modifying titans in chunks of 1 is the token loop", "rule self-modifying-titans")
def _() -> Sides:
    case, reads, _ = _self_modified()
    found = [_as_self_modified(case, strategy)[0] for strategy in TOKEN_BY_TOKEN]
    return torch.stack(found), reads.expand(2, -1, -1, -1, -1)


@identity("self-modifying titans in chunks of 1 leaves the memories of the token loop", "rule self-modifying-titans")
def _() -> Sides:
    case, _, memories = _self_modified()
    found = [_as_self_modified(case, strategy)[1].memory for strategy in TOKEN_BY_TOKEN]
    expected = torch.stack(list(memories.values()))
    return torch.stack([torch.stack([one[name] for name in memories]) for one in found]), torch.stack([expected] * 2)
