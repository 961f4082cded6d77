"""Matrix memories: the delta family, Omega and Atlas."""

from typing import Any

import torch

from hecate_core import memory

from .claims import RETAIN, WRITE, B, H, K, Sides, full, gate, identity, knobs, normal, read, run, tokens


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


PLAIN_OMEGA = {"name": "omega", "window": 1, "features": "identity"}


@identity("omega with window 1 is delta, error first", "rule omega", "rule delta")
def _() -> Sides:
    found = read(PLAIN_OMEGA, retain=RETAIN, write=WRITE, window=full(1.0, 1))
    return found, read({"name": "delta", "at": "raw"}, retain=RETAIN, write=WRITE)


@identity("omega with window 1 is titans with momentum 0", "rule omega", "rule titans")
def _() -> Sides:
    found = read(PLAIN_OMEGA, retain=RETAIN, write=WRITE, window=full(1.0, 1))
    return found, read("titans", retain=RETAIN, write=WRITE, momentum=full(0.0))


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
