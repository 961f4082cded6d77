"""Strategies that take gradients at anchors, and reads that come late: which resets fit, and what a call can teach."""

import itertools
import re
from typing import Any

import pytest
import torch

from hecate_core.building import Build
from hecate_core.checking.cells import tiny_corpus
from hecate_core.composing import leveled_memory
from hecate_core.config import make_config
from hecate_core.errors import CompositionError
from hecate_core.gate_head import GateHead
from hecate_core.levels import LevelSpec, due_before, due_runs, reset_offsets
from hecate_core.model import next_token_loss

ANCHOR = {"name": "frozen", "chunk": 16, "read": "anchor"}
COARSE = {"name": "tnt", "global_chunk": 16, "local_chunks": [], "shards": []}
BEFORE = {"name": "hope", "read": "before", "segment": 16}
SELF = {"rule": "self-modifying-titans", "strategy": {"name": "tnt", "global_chunk": 32, "project": False}}


def build_of(memory: dict[str, Any], length: int, composition: Any = "lmm") -> Build:
    model = {"width": 8, "depth": 1, "heads": 2, "vocab": 17, "composition": composition, "memory": memory}
    config = {"data": {"batch": 2, "length": length}, "model": model, "schedule": {"warmup": 0, "decay": "constant"}}
    return Build(make_config(config), tiny_corpus(17, 4096))


LATE: dict[str, tuple[dict[str, Any], Any]] = {
    "frozen-anchor": ({"rule": "titans", "strategy": ANCHOR}, "lmm"),
    "tnt-global-only": ({"rule": "titans", "strategy": COARSE}, "mag"),
    "tnt-of-a-rule-that-makes-its-keys": (SELF, "hope"),
    "hope-before": ({"rule": "titans"}, BEFORE),
    "hope-before-over-anchors": ({"rule": "self-modifying-titans", "strategy": ANCHOR}, BEFORE),
    "levels": (
        {"rule": "titans", "strategy": ANCHOR, "grain": 8, "levels": [{}, {"write_period": 3, "reset_period": 6}]},
        BEFORE,
    ),
}


@pytest.mark.parametrize("length", [8, 16, 24])
@pytest.mark.parametrize("name", LATE)
def test_a_build_whose_calls_are_no_longer_than_an_anchor_s_chunk_runs(name: str, length: int) -> None:
    """Every call differentiates what it can, under a Tape; what it must not expect is exactly what gets nothing."""
    memory, composition = LATE[name]
    build = build_of(memory, length, composition)
    for _ in range(4):
        chunk, position = build.stream.next_chunk(), build.state.position
        idle = build.model.unreached(position, length)
        logits, after = build.model(chunk.input, build.state)
        named = dict(build.model.named_parameters())
        grads = torch.autograd.grad(next_token_loss(logits, chunk.target), list(named.values()), allow_unused=True)
        build.state = after.map(torch.Tensor.detach)
        silent = {name for name, grad in zip(named, grads, strict=True) if grad is None}
        assert silent <= idle
        assert {one for one in idle if ".params." not in one} <= silent, "a lost gradient would pass unseen"
    other = build_of(memory, length, composition)
    for _ in range(3):
        other.step()


def test_a_gradient_that_is_lost_where_one_is_due_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks in a call: what was written in the first is read in the second."""
    build, forward = build_of({"rule": "titans", "strategy": ANCHOR}, 32), GateHead.forward
    monkeypatch.setattr(GateHead, "forward", lambda self, x: forward(self, x).map(torch.Tensor.detach))
    with pytest.raises(Exception, match=r"gates.* is not reached by the loss|detached alias"):
        build.step()


def test_tokens_that_are_due_are_counted() -> None:
    for period, grain in itertools.product((1, 2, 3), (1, 4)):
        due = [t for start, stop, yes in due_runs(0, 40, period, grain) if yes for t in range(start, stop)]
        for position in range(41):
            assert due_before(position, period, grain) == sum(t < position for t in due)


def memory_of(strategy: Any, spec: dict[str, Any], grain: int, rule: str = "titans") -> None:
    leveled_memory(8, 2, rule=rule, strategy=strategy, levels=[spec], grain=grain, chunk=4)


def falls_inside(spec: LevelSpec, grain: int, anchors: int) -> bool:
    """Whether some reset comes after a number of written tokens that is no multiple, by counting."""
    count, written = 6 * spec.write_period * spec.reset_period * grain * anchors, 0
    resets = set(reset_offsets(0, count, spec.reset_period, grain))
    due = {t for a, b, yes in due_runs(0, count, spec.write_period, grain) if yes for t in range(a, b)}
    for t in range(count):
        if t in resets:
            if written % anchors:
                return True
            written = 0
        written += t in due
    return False


def test_a_reset_inside_a_chunk_of_frozen_is_refused_and_one_at_its_border_is_not() -> None:
    """Derived from the chunk, the grain and both periods; the periods that the refusal names are accepted."""
    for period, reset, grain, chunk in itertools.product((1, 2, 3), (1, 2, 3, 4, 6), (1, 2, 4), (1, 3, 4)):
        spec = {"write_period": period, "reset_period": reset}
        strategy = {"name": "frozen", "chunk": chunk}
        if not falls_inside(LevelSpec(**spec), grain, chunk):
            memory_of(strategy, spec, grain)
            continue
        with pytest.raises(CompositionError) as caught:
            memory_of(strategy, spec, grain)
        line = str(caught.value)
        assert re.match(rf"levels\[0\]\.reset_period = {reset}: with grain {grain} a reset falls inside a chunk", line)
        assert "\n" not in line
        nearest = [int(one) for one in re.findall(r"\d+", line.rpartition("expected ")[2].partition(", or a")[0])]
        below = [one for one in range(1, reset) if not falls_inside(LevelSpec(period, 1, one), grain, chunk)]
        assert nearest[:-1] == below[-1:]
        for fitting in nearest:
            memory_of(strategy, {**spec, "reset_period": fitting}, grain)


def test_only_what_has_an_anchor_inside_refuses() -> None:
    """A form that ignores its anchor, exact strategies and one whose anchors the reset meets are served."""
    inside = {"reset_period": 1}
    memory_of("frozen", inside, 3, rule="hebbian")
    memory_of("sequential", inside, 3)
    memory_of("chunkwise", inside, 3)
    tnt = {"name": "tnt", "global_chunk": 6, "local_chunks": [2, 4], "shards": [8]}
    memory_of(tnt, inside, 12)
    for strategy, grain, rule in (
        (tnt, 8, "titans"),
        ({"name": "frozen", "read": "anchor"}, 3, "hebbian"),
        ({"name": "frozen", "link": "chunk"}, 3, "hebbian"),
    ):
        with pytest.raises(CompositionError, match="a reset falls inside a chunk of strategy"):
            memory_of(strategy, inside, grain, rule)


def test_a_config_with_such_a_reset_is_refused_when_it_is_built() -> None:
    memory = {"rule": "titans-deep", "strategy": {"name": "frozen", "chunk": 16}, "grain": 8}
    with pytest.raises(CompositionError, match=r"levels\[1\]\.reset_period = 3.*; expected 2 or 4"):
        build_of({**memory, "levels": [{}, {"reset_period": 3}]}, 16)
    build_of({**memory, "levels": [{}, {"reset_period": 4}]}, 16).step()
