"""Learned frequencies of chains: rows decide by the period that ends, and a step is judged by what it changes."""

import copy
from typing import Any

import pytest
import torch

from hecate_core.building import Build
from hecate_core.checking.architecture import ARCHITECTURE, ModelCase
from hecate_core.checking.cells import tiny, tiny_corpus
from hecate_core.checking.dry_run import DRY_RUN, DryRun
from hecate_core.cms import CMS
from hecate_core.config import load_config, make_config
from hecate_core.errors import CompositionError
from hecate_core.frequency import StepGate
from hecate_core.model import LanguageModel, next_token_loss
from hecate_core.observing import chains_of, observe, with_leaves
from hecate_core.optimizers.owners import level_of_parameters
from hecate_core.records import State
from hecate_core.shapes import Tensor

from .chains import GRAIN, VOCAB, demand_same_when_resumed, level_of, model_of, table, text

CLOSE = 1e-12  # float64: the same sums in another order
PERIOD = 2 * GRAIN
FIXED = {"write_period": 2, "rate": 0.1}
LEARNED = {**FIXED, "frequency": "learned"}


def gates_of(model: LanguageModel) -> list[StepGate]:
    return [one for one in model.modules() if isinstance(one, StepGate)]


def gated(*, bias: float = 1.0, weight: float = 0.0, **spec: Any) -> LanguageModel:
    """Two levels in every block, the second of learned frequency."""
    model = model_of(levels=[{"rate": 0.1}, {**LEARNED, **spec}])
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for gate in gates_of(model):
            gate.bias.fill_(bias)
            gate.weight.copy_(weight * torch.randn(gate.weight.shape, generator=random))
    return model


def slow(state: State, block: int = 0) -> State:
    found: State = state[f"block{block}"].channel.level1
    return found


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_a_level_that_always_wants_to_is_one_of_fixed_frequency(reduce: str) -> None:
    """As every one does at the start."""
    (ids, targets), learned = text(3 * PERIOD), gated(reduce=reduce)
    fixed = model_of(levels=[{"rate": 0.1}, {**FIXED, "reduce": reduce}])
    one, two = (observe(model, ids, targets, model.init_state(2)) for model in (fixed, learned))
    torch.testing.assert_close(one.logits, two.logits, atol=CLOSE, rtol=CLOSE)
    for path, tensor in one.state.flat().items():
        torch.testing.assert_close(two.state.flat()[path], tensor, atol=CLOSE, rtol=1e-9)
    assert fixed.state_dict().keys() < learned.state_dict().keys()


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_what_a_resting_level_gathers_waits_for_its_next_step(reduce: str) -> None:
    (ids, targets), model = text(2 * PERIOD), gated(bias=-5.0, reduce=reduce)
    rested = observe(model, ids[:, :PERIOD], targets[:, :PERIOD], model.init_state(2)).state
    assert not slow(rested).change.up.any()
    first = slow(rested).pending
    assert bool(first.up.any())
    assert slow(rested).frequency.count.tolist() == [PERIOD, PERIOD]
    for gate in gates_of(model):
        torch.nn.init.constant_(gate.bias, 5.0)
    stepped = observe(model, ids[:, PERIOD:], targets[:, PERIOD:], rested).state
    alone = copy.deepcopy(model)  # the second period from the same place, nothing pending before it
    empty = rested
    for block in range(2):
        path = f"block{block}.channel.level1"
        level = slow(rested, block)
        clean = level.frequency.replace(count=torch.zeros_like(level.frequency.count))
        empty = empty.put(path, level.replace(pending=level.pending.map(torch.zeros_like), frequency=clean))
    second = slow(observe(alone, ids[:, PERIOD:], targets[:, PERIOD:], empty).state).change
    share = 0.5 if reduce == "mean" else 1.0
    own = -0.1 / (PERIOD if reduce == "mean" else 1)
    torch.testing.assert_close(slow(stepped).change.up, share * (own * first.up + second.up), atol=CLOSE, rtol=1e-9)
    assert not slow(stepped).pending.up.any()
    assert slow(stepped).frequency.count.tolist() == [0.0, 0.0]


def decided(model: LanguageModel, ids: Tensor, targets: Tensor) -> tuple[list[list[bool]], list[list[bool]]]:
    """By period and row whether the first block's level stepped, and whether its own definition says so."""
    seen: list[Tensor] = []
    hook = level_of(model, 0, 1).register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    state, moved, wanted = model.init_state(len(ids)), [], []
    gate = gates_of(model)[0]
    for begin in range(0, ids.shape[1], PERIOD):
        before = slow(state).change.up
        seen.clear()
        state = observe(model, ids[:, begin : begin + PERIOD], targets[:, begin : begin + PERIOD], state).state
        moved.append((slow(state).change.up != before).flatten(1).any(1).tolist())
        mean = torch.cat(seen, 1).mean(1)
        wanted.append((mean @ gate.weight + gate.bias > 0).tolist())
    hook.remove()
    return moved, wanted


def test_each_row_decides_by_the_mean_of_what_the_level_was_given() -> None:
    ids, targets = text(5 * PERIOD, batch=3)
    moved, wanted = decided(gated(bias=0.0, weight=8.0), ids, targets)
    assert moved == wanted
    flat = [one for period in moved for one in period]
    assert 0 < sum(flat) < len(flat)  # both happen


def test_a_text_may_be_cut_at_any_piece_and_later_tokens_change_nothing_before_them() -> None:
    (ids, targets), model = text(4 * PERIOD), gated(bias=0.0, weight=8.0)
    whole = observe(model, ids, targets, model.init_state(2))
    state, logits = model.init_state(2), []
    for begin, end in ((0, 3), (3, 4), (4, 6), (6, 7), (7, 8)):
        cut = slice(begin * GRAIN, end * GRAIN)
        part = observe(model, ids[:, cut], targets[:, cut], state)
        state = part.state
        logits.append(part.logits)
    torch.testing.assert_close(torch.cat(logits, 1), whole.logits, atol=CLOSE, rtol=1e-9)
    for path, one in whole.state.flat().items():
        torch.testing.assert_close(state.flat()[path], one, atol=CLOSE, rtol=1e-9)
    other, there = ids.clone(), 3 * PERIOD
    other[:, there:] = (other[:, there:] + 1) % VOCAB
    again = observe(model, other, targets, model.init_state(2))
    assert torch.equal(again.logits[:, :there], whole.logits[:, :there])


def test_a_reset_inside_a_period_forgets_what_was_heard() -> None:
    model = gated(bias=0.0, weight=8.0, reset_period=3)
    ids, targets = text(3 * GRAIN)
    state = observe(model, ids, targets, model.init_state(2)).state
    assert all(not one.any() for one in slow(state).flat().values())
    again, more = observe(model, *text(GRAIN, seed=9), state).state, text(GRAIN, seed=9)[0]
    seen: list[Tensor] = []
    hook = level_of(model, 0, 1).register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    model(more, state)
    hook.remove()
    assert again.position == 2 * PERIOD
    torch.testing.assert_close(slow(again).frequency.mean, seen[0].sum(1) / PERIOD, atol=CLOSE, rtol=1e-9)
    assert bool(slow(again).frequency.step.up.any())


def test_a_decision_is_judged_by_what_its_step_changes() -> None:
    """d wants = <dL / dD, step>, whether the row took the step or not; and not a bit of the reads depends on it."""
    (ids, targets), model = text(PERIOD + GRAIN), gated(bias=0.0, weight=8.0)
    state = observe(model, ids[:, :PERIOD], targets[:, :PERIOD], model.init_state(2)).state
    frequency = slow(state).frequency
    mean, step = frequency.mean.clone(), frequency.step
    assert bool(step.up.flatten(1).any(1).all())
    leaves_state, leaves = with_leaves(state)
    logits, _ = model(ids[:, PERIOD:], leaves_state)
    loss = next_token_loss(logits, targets[:, PERIOD:])
    gate = gates_of(model)[0]
    changes = [leaves[f"block0.channel.level1.change.{name}"] for name in ("up", "down")]
    by_weight, by_bias, up, down = torch.autograd.grad(loss, [gate.weight, gate.bias, *changes])
    heard = (up * step.up).flatten(1).sum(1) + (down * step.down).flatten(1).sum(1)
    wants = torch.sigmoid(mean @ gate.weight + gate.bias).detach()
    slope = heard * wants * (1 - wants)
    torch.testing.assert_close(by_bias, slope.sum().view(1), atol=CLOSE, rtol=1e-9)
    torch.testing.assert_close(by_weight, slope @ mean, atol=CLOSE, rtol=1e-9)
    bare = copy.deepcopy(model)
    for one in chains_of(bare).values():
        one.frequencies["level1"].judging = lambda change, _: change  # type: ignore[method-assign,assignment]
    assert torch.equal(bare(ids[:, PERIOD:], state)[0], logits)


def build_of(**run: Any) -> Build:
    levels = [{"rate": 0.1}, {**LEARNED, "write_period": 3, "update_period": 2}]
    return Build(make_config(table(levels=levels, run=run)), tiny_corpus(VOCAB))


def test_a_build_moves_the_gates_and_resumes_inside_a_period_bit_for_bit() -> None:
    unbroken, bare = build_of(), build_of(wall=False)
    names = [name for name, _ in unbroken.model.named_parameters() if ".frequencies." in name]
    assert len(names) == 4
    assert {level_of_parameters(unbroken.model)[name] for name in names} == {2}  # memory, fast, this one
    for _ in range(4):
        assert unbroken.step()["loss"] == bare.step()["loss"]
    demand_same_when_resumed(unbroken, build_of())
    now = unbroken.model.state_dict()
    assert all(bool((now[name] != (1.0 if name.endswith("bias") else 0.0)).any()) for name in names)


def test_from_toml_it_is_a_whole_model_that_passes_every_check(tmp_path: Any) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[model]\nchannel = "cms"\ndepth = 1\ncomposition = "lmm"\n[model.memory]\nrule = "delta"\n[model.cms]\n'
        'levels = [{rate = 0.01}, {write_period = 2, rate = 0.01, frequency = "learned"}]\n'
    )
    config = tiny(load_config(file))
    for suite, case in ((ARCHITECTURE, ModelCase), (DRY_RUN, DryRun)):
        found = suite.run("learned", lambda case=case: case(config))  # type: ignore[misc]
        assert [one.line for one in found if not one.ok] == []


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([{"rate": 0.1, "frequency": "learned"}], r"levels\[0\].frequency = .* is the fastest and always steps"),
        ([{}, {"frequency": "learned"}], r"levels\[1\].frequency = .* takes no step while it reads; give it a rate"),
    ],
)
def test_levels_without_a_step_to_decide_on_are_refused(levels: list[Any], words: str) -> None:
    with pytest.raises(CompositionError, match=words):
        CMS(4, levels)
