"""Learned frequencies: causal to the bit, the same however a text is cut, and judged by what a write changes."""

from typing import Any, cast

import pytest
import torch

from hecate_core.building import Build
from hecate_core.checking.cells import tiny_corpus
from hecate_core.composing import leveled_memory
from hecate_core.config import make_config
from hecate_core.differentiation import Tape, autodiff
from hecate_core.errors import CompositionError, HecateError
from hecate_core.frequency import FrequencyGate
from hecate_core.layer import LeveledMemory, LevelMemory
from hecate_core.records import State, positions_of, unflat
from hecate_core.shapes import Tensor
from hecate_core.testing.samples import demand_slope

WIDTH, GRAIN, COUNT = 8, 5, 27  # five grains and a ragged end
CLOSE = 1e-11  # float64: the same sums in another order
CELLS = [("delta", "chunkwise"), ("titans", "frozen"), ("titans", "sequential")]
every_cell = pytest.mark.parametrize(("rule", "strategy"), CELLS)


def memory_of(
    rule: str = "delta", strategy: str = "chunkwise", *, bias: float = 0.0, weight: float = 8.0, second: Any = None
) -> LeveledMemory:
    """Two levels, the second of learned frequency, whose decisions go both ways at bias 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        levels = [1, {"frequency": "learned"} if second is None else second]
        made = leveled_memory(
            WIDTH, 2, rule=rule, strategy=strategy, chunk=4, grain=GRAIN, conv=2, levels=levels, aggregate="sum"
        ).double()
        gate = level(made, 1).frequency
        if gate is not None:
            with torch.no_grad():
                gate.weight.copy_(weight * torch.randn(WIDTH))
                gate.bias.fill_(bias)
    return made


def level(memory: LeveledMemory, index: int) -> LevelMemory:
    return cast(LevelMemory, memory.levels[index])


def activations(count: int = COUNT) -> Tensor:
    return torch.randn(3, count, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def read(memory: LeveledMemory, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    with torch.no_grad():
        return memory.absorb(x, memory.init_state(len(x)) if state is None else state)


def decisions(memory: LeveledMemory, x: Tensor) -> Tensor:
    """Which grains each row writes in, `[B, grains]`, by the definition: the mean of the whole grain before."""
    gate = level(memory, 1).frequency
    assert gate is not None
    means = torch.stack([part.mean(1) for part in x.split(GRAIN, 1)], 1)[:, :-1]
    said = torch.sigmoid(means @ gate.weight + gate.bias) > 0.5
    return torch.cat((torch.ones(len(x), 1, dtype=torch.bool), said), 1)


@every_cell
def test_a_level_is_written_where_the_grain_before_says_so(rule: str, strategy: str) -> None:
    """Against the same level without a gate, given the decisions as a write mask."""
    memory, x = memory_of(rule, strategy), activations()
    said = decisions(memory, x)
    assert said[:, 1:].any()
    assert not said[:, 1:].all()
    plain = memory_of(rule, strategy, second={})
    plain.load_state_dict({name: one for name, one in memory.state_dict().items() if "frequency" not in name})
    y, after = read(memory, x)
    with torch.no_grad():
        first, _ = level(plain, 0)(x, plain.init_state(3).level0)
        second, end = level(plain, 1)(x, plain.init_state(3).level1, said.repeat_interleave(GRAIN, 1)[:, :COUNT])
    torch.testing.assert_close(y, first + second, atol=CLOSE, rtol=CLOSE)
    for path, one in end.rule.flat().items():
        torch.testing.assert_close(after.level1.rule.flat()[path], one, atol=CLOSE, rtol=CLOSE)


@every_cell
def test_changing_a_token_changes_nothing_before_it_to_the_bit(rule: str, strategy: str) -> None:
    memory, x = memory_of(rule, strategy), activations()
    expected, _ = read(memory, x)
    for j in (1, 4, 5, 13, COUNT - 1):
        for factor in (3.0, -50.0):  # the second turns decisions around
            other = x.clone()
            other[:, j] = 1.0 + factor * x[:, j]
            y, _ = read(memory, other)
            assert torch.equal(y[:, :j], expected[:, :j])
            assert not torch.equal(y[:, j], expected[:, j])
    other = x.clone()
    other[:, 6] *= -50.0
    assert not torch.equal(decisions(memory, other), decisions(memory, x))


@every_cell
def test_however_a_text_is_cut_and_saved_the_same_is_decided(rule: str, strategy: str) -> None:
    memory, x = memory_of(rule, strategy), activations()
    expected, end = read(memory, x)
    for sizes in ([COUNT - 4, 4], [1] * COUNT, [7, 0, 5, 15]):
        state, parts = memory.init_state(3), []
        for piece in x.split(sizes, 1):
            y, state = read(memory, piece, unflat(state.flat(), positions_of(state)))
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), expected, atol=CLOSE, rtol=CLOSE)
        for path, one in end.flat().items():
            torch.testing.assert_close(state.flat()[path], one, atol=CLOSE, rtol=CLOSE)
        assert positions_of(state) == positions_of(end)


def test_always_open_is_no_gate_and_always_closed_writes_in_the_first_grain_alone() -> None:
    x = activations()
    opened, closed, plain = memory_of(bias=1e3), memory_of(bias=-1e3), memory_of(second={})
    torch.testing.assert_close(read(opened, x)[0], read(plain, x)[0], atol=CLOSE, rtol=CLOSE)
    _, first = read(plain, x[:, :GRAIN])
    _, end = read(closed, x)
    torch.testing.assert_close(end.level1.rule.memory.matrix, first.level1.rule.memory.matrix, atol=CLOSE, rtol=CLOSE)
    assert end.level1.rule.position == COUNT


def test_a_learned_level_also_keeps_its_period() -> None:
    """Due grains are the even ones; what a resting grain says decides the next due one."""
    memory, x = memory_of(second={"write_period": 2, "frequency": "learned"}), activations()
    said = decisions(memory, x)
    state = memory.init_state(3)
    for grain, piece in enumerate(x.split(GRAIN, 1)):
        _, after = read(memory, piece, state)
        moved = (after.level1.rule.memory.matrix != state.level1.rule.memory.matrix).flatten(1).any(1)
        assert torch.equal(moved, said[:, grain] if grain % 2 == 0 else torch.zeros(3, dtype=torch.bool))
        state = after


def test_a_decision_is_judged_by_what_writing_changes_in_its_grain() -> None:
    """Against the formula, for open and for closed rows: <dy, written - rested> g (1 - g) by the gate's inputs."""
    memory, x = memory_of("titans", "sequential", weight=2.0), activations(2 * GRAIN)
    one, gate = level(memory, 1), level(memory, 1).frequency
    assert gate is not None
    with torch.no_grad():  # between the first two of three rows
        gate.bias.copy_(-(x[:, :GRAIN].mean(1) @ gate.weight).sort().values[:2].mean())
    assert int(decisions(memory, x)[:, 1].sum()) == 2
    dy = torch.randn(3, 2 * GRAIN, WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y, _ = one(x, one.init_state(3))
    found = torch.autograd.grad((y * dy).sum(), [gate.weight, gate.bias])
    plain = level(memory_of("titans", "sequential", second={}), 1)
    plain.load_state_dict({name: value for name, value in one.state_dict().items() if "frequency" not in name})
    with torch.no_grad():
        mask = torch.ones(3, 2 * GRAIN, dtype=torch.bool)
        written, _ = plain(x, plain.init_state(3), mask)
        mask[:, GRAIN:] = False
        rested, _ = plain(x, plain.init_state(3), mask)
        m = x[:, :GRAIN].mean(1)
        g = torch.sigmoid(m @ gate.weight + gate.bias)
        judged = ((written - rested) * dy)[:, GRAIN:].flatten(1).sum(1) * g * (1 - g)
    torch.testing.assert_close(found[0], (judged.unsqueeze(1) * m).sum(0), atol=CLOSE, rtol=1e-9)
    torch.testing.assert_close(found[1], judged.sum().view(1), atol=CLOSE, rtol=1e-9)


def test_every_other_gradient_is_the_true_one() -> None:
    """Along a random direction of all parameters but the gate's, whose decisions are steps."""
    memory, x = memory_of(), activations()
    named = {name: one for name, one in memory.named_parameters() if "frequency" not in name}
    random = torch.Generator().manual_seed(3)
    directions = [torch.randn(one.shape, generator=random, dtype=one.dtype) for one in named.values()]
    start = [one.detach().clone() for one in named.values()]

    def loss() -> Tensor:
        return memory.absorb(x, memory.init_state(3))[0].square().sum()

    grads = torch.autograd.grad(loss(), list(named.values()))

    def moved(step: float) -> float:
        for one, begin, direction in zip(named.values(), start, directions, strict=True):
            one.data = begin + step * direction
        return float(loss().detach())

    demand_slope("the gradient", sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True)), moved)


def test_it_works_under_the_wall_and_in_a_build_that_resumes() -> None:
    memory, x = memory_of(), activations()
    state = memory.init_state(3)
    with Tape() as tape:
        y, _ = memory.absorb(x, state)
        loss = autodiff(lambda y: y.square().sum())(y)
    assert all(one is not None for one in tape.grad(loss, dict(memory.named_parameters())).values())

    def build_of() -> Build:
        return Build(
            make_config({
                "data": {"batch": 2, "length": 7},
                "model": {
                    "width": 8, "heads": 2, "depth": 1, "vocab": 17,
                    "memory": {"chunk": 3, "aggregate": "softmax", "levels": [1, {"frequency": "learned"}]},
                },
                "schedule": {"warmup": 0},
            }),
            tiny_corpus(17),
        )  # fmt: skip

    one, two = build_of(), build_of()
    for _ in range(3):
        one.step()
    two.restore(*one.parts())
    assert [one.step()["loss"] for _ in range(3)] == [two.step()["loss"] for _ in range(3)]


def test_the_state_is_of_fixed_size_and_the_first_grain_always_writes() -> None:
    gate = FrequencyGate(WIDTH, GRAIN).double()
    grains, state = gate(activations(12), gate.init_state(3))
    assert [(one.begin, one.end, one.decided) for one in grains] == [(0, 5, False), (5, 10, True), (10, 12, True)]
    assert bool(grains[0].is_open.all())
    assert {name: list(one.shape) for name, one in state.flat().items()} == {"total": [3, WIDTH], "wants": [3]}


def test_what_cannot_be_is_refused_with_its_reason() -> None:
    with pytest.raises(CompositionError, match=r"levels\[0\].frequency = .learned.: the fastest level always writes"):
        leveled_memory(WIDTH, 2, rule="delta", levels=[{"frequency": "learned"}])
    with pytest.raises(HecateError, match=r"levels\[1\].frequency = 'often'; expected .fixed. or .learned."):
        leveled_memory(WIDTH, 2, rule="delta", levels=[1, {"frequency": "often"}])
    memory, x = memory_of(), activations()
    starts = torch.zeros(3, COUNT, dtype=torch.bool)
    with pytest.raises(CompositionError, match="a learned frequency decides by the grain before"):
        memory.absorb(x, memory.init_state(3), None, starts)
