"""Strategies and levels."""

from typing import Any, cast

import torch

from hecate_core import memory
from hecate_core.aggregation import AGGREGATES
from hecate_core.channel import SwiGLU
from hecate_core.cms import CMS
from hecate_core.composing import leveled_memory
from hecate_core.layer import LeveledMemory, LevelMemory
from hecate_core.shapes import Tensor

from .claims import RETAIN, WRITE, H, Sides, T, gate, identity, normal, read


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


# --- levels: a first level of period 1 is no level at all --------------------------------------------------------

WIDTH, GRAIN = 8, 3
X = normal(2, T, WIDTH, seed=30)


def _layer(levels: Any, *, aggregate: str = "sum") -> LeveledMemory:
    """A leveled memory of the rule delta, its weights drawn once and for all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = leveled_memory(
            WIDTH,
            H,
            rule="delta",
            strategy="chunkwise",
            chunk=4,
            grain=GRAIN,
            conv=0,
            levels=levels,
            aggregate=aggregate,
        ).double()
    return made


def _absorbed(made: LeveledMemory, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        return made.absorb(x, made.init_state(len(x)))[0]


def _only_level(made: LeveledMemory) -> Tensor:
    """What its one level answers: a front, the rule, and heads side by side."""
    level = cast(LevelMemory, made.levels[0])
    with torch.no_grad():
        inputs, _ = level.front(X, level.front.init_state(2))
        gates = level.gates(X)
        y, _ = memory(inputs.q, inputs.k, inputs.v, rule="delta", gates=dict(gates), strategy="sequential")
    answer: Tensor = y.transpose(1, 2).flatten(2)
    return answer


@identity("one level of period 1 is the rule between a front and a head", "rule delta")
def _() -> Sides:
    made = _layer([1])
    return _absorbed(made), _only_level(made)


@identity("one level of period 1, aggregated any way, is that level", "rule delta")
def _() -> Sides:
    made = [_layer([1], aggregate=one) for one in AGGREGATES]
    return torch.stack([_absorbed(one) for one in made]), torch.stack([_only_level(one) for one in made])


@identity("a chain of one level of period 1 is no chain")
def _() -> Sides:
    """The channel half of a block: continuum memory with one level against the plain MLP of the same weights."""
    chain, plain = CMS(WIDTH, [1], grain=GRAIN).double(), SwiGLU(WIDTH).double()
    chain.stack([plain])
    with torch.no_grad():
        return chain(X, chain.init_state(2))[0], plain(X)


@identity("a learned frequency that always opens is none", "rule delta")
def _() -> Sides:
    always = _layer([1, {"frequency": "learned"}])
    with torch.no_grad():
        dict(always.named_parameters())["levels.1.frequency.bias"].fill_(9.0)
    plain = _layer([1, 1])
    plain.load_state_dict({name: one for name, one in always.state_dict().items() if "frequency" not in name})
    return _absorbed(always), _absorbed(plain)


@identity("what a reset level reads is what a fresh one would read", "rule delta")
def _() -> Sides:
    made = _layer([{"reset_period": 2}])
    return _absorbed(made)[:, 2 * GRAIN : 4 * GRAIN], _absorbed(made, X[:, 2 * GRAIN : 4 * GRAIN])
