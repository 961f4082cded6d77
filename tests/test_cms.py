"""Chains of MLPs at paces of their own: what they equal, when they learn, and that nothing depends on the cut."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hecate_core.channel import SwiGLU
from hecate_core.cms import CMS
from hecate_core.errors import CompositionError, DataError, HecateError, InputError
from hecate_core.model import LanguageModel, next_token_loss
from hecate_core.observing import learned, learning_bits_per_byte, observe, with_leaves
from hecate_core.records import State, positions_of, unflat
from hecate_core.shapes import Tensor

from .chains import GRAIN, VOCAB, WIDTH, level_of, logits_of, model_of, text

CLOSE = 1e-12  # float64: the same sums in another order


def chain(levels: Any, *, seed: int = 0, **options: Any) -> CMS:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CMS(WIDTH, levels, grain=GRAIN, expansion=2.0, **options).double()


def activations(count: int = 12) -> Tensor:
    return torch.randn(2, count, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def moved(chain: CMS, seed: int = 5) -> State:
    """A state as learning might have left it."""
    random = torch.Generator().manual_seed(seed)
    return chain.init_state(2).map(lambda one: 0.3 * torch.randn(one.shape, generator=random, dtype=one.dtype))


def passed(chain: CMS, x: Tensor, state: State | None = None) -> Tensor:
    with torch.no_grad():
        y: Tensor = chain(x, chain.init_state(len(x)) if state is None else state)[0]
    return y


def test_one_level_of_period_one_is_no_chain_to_the_bit() -> None:
    ids, _ = text(12)
    plain = logits_of(model_of("swiglu"), ids)
    for level in ({}, {"rate": 0.5}):  # FAST, but nothing was judged
        for deployment in ("sequential", "nested", "independent"):
            assert torch.equal(logits_of(model_of(levels=[level], deployment=deployment), ids), plain)
    assert not torch.equal(logits_of(model_of(levels=[{}, {}]), ids), plain)


def test_a_chain_is_its_equations() -> None:
    x, given = activations(), [{}, {"write_period": 2}, {"write_period": 4}]
    one = chain(given)
    h, total = x, torch.zeros_like(x)
    for mlp in one.levels:
        y = mlp(h)
        h, total = h + y, total + y
    torch.testing.assert_close(passed(one, x), total, atol=CLOSE, rtol=CLOSE)
    bare = chain(given, skip=False)
    torch.testing.assert_close(
        passed(bare, x), bare.levels[2](bare.levels[1](bare.levels[0](x))), atol=CLOSE, rtol=CLOSE
    )
    answers = torch.stack([mlp(x) for mlp in one.levels])
    for aggregate, expected in (
        ("sum", answers.sum(0)),
        ("invsqrt", answers.sum(0) / 3**0.5),
        ("softmax", answers.mean(0)),  # shares start equal
    ):
        side = chain(given, deployment="independent", aggregate=aggregate)
        torch.testing.assert_close(passed(side, x), expected, atol=CLOSE, rtol=CLOSE)


def test_learned_shares_have_the_gradient_of_a_softmax() -> None:
    side, x = chain([{}, {}, {}], deployment="independent"), activations()
    assert side.aggregate is not None
    shares = side.aggregate.shares
    assert shares is not None
    with torch.no_grad():
        shares.copy_(torch.tensor([0.3, -1.0, 0.5]))
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (found,) = torch.autograd.grad((side(x, side.init_state(2))[0] * dy).sum(), [shares])
    weights = shares.detach().softmax(0)
    heard = torch.stack([(dy * mlp(x)).sum() for mlp in side.levels])
    torch.testing.assert_close(found, weights * (heard - (weights * heard).sum()), atol=1e-10, rtol=1e-10)


def test_one_period_is_one_step_of_gradient_descent_on_the_summed_loss() -> None:
    """The change of a FAST level against the gradient by the parameter itself, then against the moved parameter."""
    model, (ids, targets) = model_of(levels=[{"rate": 0.1}]), text(GRAIN, batch=1)
    learned = observe(model, ids, targets, model.init_state(1))
    loss = F.cross_entropy(model(ids, model.init_state(1))[0][0], targets[0], reduction="sum")
    twin = copy.deepcopy(model)
    for index in range(2):
        mlp = level_of(model, index, 0)
        grads = torch.autograd.grad(loss, [mlp.up.weight, mlp.down.weight], retain_graph=True)
        change = learned.state[f"block{index}"].channel.level0.change
        torch.testing.assert_close(change.up[0], -0.1 * grads[0], atol=CLOSE, rtol=1e-9)
        torch.testing.assert_close(change.down[0], -0.1 * grads[1], atol=CLOSE, rtol=1e-9)
        other = level_of(twin, index, 0)
        with torch.no_grad():
            other.up.weight.sub_(0.1 * grads[0])
            other.down.weight.sub_(0.1 * grads[1])
    fresh = model.init_state(1)
    for name in fresh:
        fresh = fresh.put(f"{name}.channel", learned.state[name].channel)
    more, _ = text(6, seed=8, batch=1)
    torch.testing.assert_close(logits_of(model, more, fresh), logits_of(twin, more), atol=1e-10, rtol=1e-10)


def test_rows_learn_each_from_their_own_text() -> None:
    model, (ids, targets) = model_of(levels=[{"rate": 0.1}]), text(GRAIN)
    both = observe(model, ids, targets, model.init_state(2)).state
    alone = observe(model, ids[1:], targets[1:], model.init_state(1)).state
    for path, one in alone.flat().items():
        if ".channel." in path:
            torch.testing.assert_close(both.flat()[path][1:], one, atol=CLOSE, rtol=1e-9)


LEVELS: list[dict[str, Any]] = [{"rate": 0.1}, {"write_period": 3, "rate": 0.2, "reduce": "mean"}]


def test_however_a_text_is_cut_the_same_is_learned() -> None:
    model, (ids, targets) = model_of(levels=LEVELS, deployment="nested"), text(9 * GRAIN)
    whole = observe(model, ids, targets, model.init_state(2))
    for sizes in ([1] * 9, [2, 3, 4], [5, 4]):
        state, parts = model.init_state(2), list[Tensor]()
        for i, t in zip(
            ids.split([n * GRAIN for n in sizes], 1), targets.split([n * GRAIN for n in sizes], 1), strict=True
        ):
            seen = observe(model, i, t, state)
            state, parts = seen.state, [*parts, seen.logits]
        torch.testing.assert_close(torch.cat(parts, 1), whole.logits, atol=CLOSE, rtol=1e-9)
        for path, one in whole.state.flat().items():
            torch.testing.assert_close(state.flat()[path], one, atol=CLOSE, rtol=1e-9)
        assert positions_of(state) == positions_of(whole.state)
    plain = logits_of(model, ids)
    assert torch.equal(whole.logits[:, :GRAIN], plain[:, :GRAIN])
    assert not torch.equal(whole.logits[:, GRAIN:], plain[:, GRAIN:])
    _, inside = model(ids[:, : GRAIN + 1], model.init_state(2))
    with pytest.raises(InputError, match=r"goes on at token 5, inside a piece of 4 tokens of block0"):
        observe(model, ids[:, GRAIN + 1 :], targets[:, GRAIN + 1 :], inside)


def test_a_later_target_teaches_nothing_about_earlier_tokens() -> None:
    model, (ids, targets) = model_of(levels=LEVELS), text(4 * GRAIN)
    other = targets.clone()
    other[:, 2 * GRAIN :] = (other[:, 2 * GRAIN :] + 1) % VOCAB
    one, two = (observe(model, ids, given, model.init_state(2)).logits for given in (targets, other))
    assert torch.equal(one[:, : 3 * GRAIN], two[:, : 3 * GRAIN])  # the third grain is judged after it was read
    assert not torch.equal(one[:, 3 * GRAIN :], two[:, 3 * GRAIN :])


def test_sums_means_and_the_health_ratio_are_those_of_the_pieces() -> None:
    """Level 0 strikes every grain at rate 0 but a hair, so that level 1 gathers two pieces of the same weights."""
    (ids, targets), gathered = text(2 * GRAIN), {}
    for reduce in ("sum", "mean"):
        model = model_of(levels=[{"rate": 1e-300}, {"write_period": 2, "rate": 0.1, "reduce": reduce}])
        gathered[reduce] = observe(model, ids, targets, model.init_state(2))
    totals, means = (gathered[name].state.block0.channel.level1.change for name in ("sum", "mean"))
    torch.testing.assert_close(totals.up, 2 * GRAIN * means.up, atol=CLOSE, rtol=1e-9)
    model = model_of(levels=[{"rate": 1e-300}, {"write_period": 2, "rate": 0.1}])
    first = observe(model, ids[:, :GRAIN], targets[:, :GRAIN], model.init_state(2)).state
    pending = first.block0.channel.level1.pending
    assert pending.position == GRAIN
    newest = {key: -totals[key] / 0.1 - pending[key] for key in pending}
    norms = [torch.cat([one.flatten() for one in part]).norm() for part in ([*totals.values()], [*newest.values()])]
    ratio = gathered["sum"].health["block0.channel.level1"]
    assert ratio == pytest.approx(float(norms[0] / 0.1 / norms[1]), rel=1e-9)
    assert gathered["sum"].health["block0.channel.level0"] == pytest.approx(1.0)


def test_nested_is_sequential_with_the_resets_that_its_periods_say() -> None:
    given: list[dict[str, Any]] = [{"rate": 0.1}, {"write_period": 3, "rate": 0.1}, {"write_period": 7, "rate": 0.1}]
    (ids, targets) = text(8 * GRAIN)
    nested = model_of(levels=given, deployment="nested")
    by_hand = model_of(levels=[{**given[0], "reset_period": 3}, {**given[1], "reset_period": 9}, given[2]])
    sequential = model_of(levels=given)
    seen = [observe(one, ids, targets, one.init_state(2)).logits for one in (nested, by_hand, sequential)]
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0][:, : 3 * GRAIN], seen[2][:, : 3 * GRAIN])  # no context of a level has ended yet
    assert not torch.equal(seen[0][:, 3 * GRAIN :], seen[2][:, 3 * GRAIN :])
    state = observe(nested, ids[:, : 3 * GRAIN], targets[:, : 3 * GRAIN], nested.init_state(2)).state
    assert float(state.block0.channel.level0.change.up.abs().max()) == 0.0
    pending = state.block0.channel.level0.pending  # of the context that has ended nothing is left to learn from
    assert float(pending.up.abs().max()) == 0.0 == pending.position
    assert float(state.block0.channel.level1.change.up.abs().max()) > 0.0


@pytest.mark.parametrize("deployment", ["sequential", "nested", "independent"])
def test_reading_is_causal_and_the_same_however_it_is_cut(deployment: str) -> None:
    """With changes learned before and contexts that end inside a call."""
    one = chain([{"rate": 0.1}, {"write_period": 2, "rate": 0.1}, {"write_period": 5}], deployment=deployment)
    x, state = activations(23), moved(chain([{"rate": 0.1}, {"write_period": 2, "rate": 0.1}, {"write_period": 5}]))
    expected = passed(one, x, state)
    for j in (1, 7, 8, 22):
        other = x.clone()
        other[:, j] = 1.0 - 2.0 * x[:, j]
        y = passed(one, other, state)
        assert torch.equal(y[:, :j], expected[:, :j])
        assert not torch.equal(y[:, j], expected[:, j])
    parts, now = [], state
    with torch.no_grad():
        for piece in x.split([3, 0, 6, 1, 13], 1):
            y, now = one(piece, now)
            parts.append(y)
        _, end = one(x, state)
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=CLOSE, rtol=CLOSE)
    assert all(torch.equal(now.flat()[path], tensor) for path, tensor in end.flat().items())
    assert positions_of(now) == positions_of(end)


def test_a_document_that_begins_forgets_what_its_row_had_learned() -> None:
    one, x = chain([{"rate": 0.1}, {"rate": 0.1}]), activations(6)
    starts = torch.zeros(2, 6, dtype=torch.bool)
    starts[0, 2] = True
    with torch.no_grad():
        y, after = one(x, moved(one), starts)
    fresh, carried = passed(one, x), passed(one, x, moved(one))
    torch.testing.assert_close(y[0, :2], carried[0, :2], atol=CLOSE, rtol=CLOSE)
    torch.testing.assert_close(y[0, 2:], fresh[0, 2:], atol=CLOSE, rtol=CLOSE)
    torch.testing.assert_close(y[1], carried[1], atol=CLOSE, rtol=CLOSE)
    assert float(after.level0.change.up[0].abs().max()) == 0.0 < float(after.level0.change.up[1].abs().max())


@pytest.mark.parametrize("first", [0, 2, GRAIN - 1])
def test_a_piece_in_which_a_document_begins_teaches_its_row_nothing(first: int) -> None:
    model, (ids, targets) = model_of(levels=[{"rate": 0.1}, {"write_period": 2, "rate": 0.1}]), text(2 * GRAIN)
    marks = torch.zeros(2, GRAIN, dtype=torch.bool)
    marks[0, first] = True

    def read(starts: Tensor | None) -> State:
        """The state after one piece and what it taught, as a build goes about it."""
        state, leaves = with_leaves(model.init_state(2))
        logits, after = model(ids[:, :GRAIN], state, starts=starts)
        grads = torch.autograd.grad(next_token_loss(logits, targets[:, :GRAIN]), list(leaves.values()))
        after = after.map(torch.Tensor.detach)
        return learned(model, after, dict(zip(leaves, grads, strict=True)), 2 * GRAIN, GRAIN)

    plain, marked = read(None), read(marks)
    ends = [observe(model, ids[:, GRAIN:], targets[:, GRAIN:], one).state.flat() for one in (plain, marked)]
    paths = [path for path in plain.flat() if ".change." in path or ".pending." in path]
    for path in paths:
        one, two = plain.flat()[path], marked.flat()[path]
        assert float(two[0].abs().max()) == 0.0
        torch.testing.assert_close(two[1], one[1], atol=CLOSE, rtol=1e-9)
        assert float(ends[1][path][0].abs().max()) > 0.0 or "pending" in path  # the next piece teaches it again
        torch.testing.assert_close(ends[1][path][1], ends[0][path][1], atol=CLOSE, rtol=1e-9)
    assert max(float(plain.flat()[path][0].abs().max()) for path in paths) > 0.0


def test_stacked_levels_are_the_given_mlps_to_the_bit() -> None:
    mlps = [SwiGLU(WIDTH, 2.0).double() for _ in range(2)]
    one, x = chain([{"rate": 0.1}, {}], skip=False), activations()
    one.stack(mlps)
    assert torch.equal(passed(one, x), mlps[1](mlps[0](x)))
    with pytest.raises(CompositionError, match="1 MLPs for 2 levels"):
        one.stack(mlps[:1])
    with pytest.raises(CompositionError, match=r"MLP 1 has weights of \[24, 8\]; its level has \[32, 8\]"):
        one.stack([mlps[0], SwiGLU(WIDTH, 1.5)])


def test_observing_moves_state_alone_and_works_without_gradients() -> None:
    model, (ids, targets) = model_of(levels=LEVELS), text(2 * GRAIN)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    start = model.init_state(2)
    with torch.no_grad():
        seen = observe(model, ids, targets, start)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(float(one.abs().max()) == 0.0 for path, one in start.flat().items() if ".channel." in path)
    assert not any(one.requires_grad for one in seen.state.flat().values())
    silent = observe(model, ids, torch.full_like(targets, -1), start)
    assert all(float(one.abs().max()) == 0.0 for path, one in silent.state.flat().items() if ".channel." in path)
    torch.testing.assert_close(silent.logits, logits_of(model, ids), atol=CLOSE, rtol=CLOSE)  # other pieces
    with torch.inference_mode(), pytest.raises(InputError, match="observe: called under inference_mode"):
        observe(model, ids, targets, start)
    restored = unflat(seen.state.flat(), positions_of(seen.state))
    assert torch.equal(logits_of(model, ids, restored), logits_of(model, ids, seen.state))


def test_what_was_learned_makes_the_same_text_likelier() -> None:
    model, (ids, targets) = model_of(levels=[{"rate": 0.01}]), text(GRAIN)
    state = model.init_state(2)
    losses = []
    for _ in range(4):
        seen = observe(model, ids, targets, state)
        losses.append(seen.loss)
        changes = {name: seen.state[name].channel for name in seen.state}
        state = model.init_state(2)
        for name, one in changes.items():
            state = state.put(f"{name}.channel", one.replace(position=0))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.01


def test_autocast_learns_nearly_the_same() -> None:
    model, (ids, targets) = model_of(levels=[{"rate": 0.05}]).float(), text(2 * GRAIN)
    exact = observe(model, ids, targets, model.init_state(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = observe(model, ids, targets, model.init_state(2))
    assert rough.loss == pytest.approx(exact.loss, rel=2e-2)
    for path, one in exact.state.flat().items():
        if ".change." in path:
            assert rough.state.flat()[path].dtype == torch.float32
            assert float((rough.state.flat()[path] - one).abs().max()) < 0.2 * float(one.abs().max())


def test_held_out_text_is_scored_while_it_teaches() -> None:
    """Against the logits of one passage after the other; with rate 0 it is the plain score."""
    passages = [bytes([5, 6, 5, 7, 5, 6, 5, 7, 5, 6]), b"x", bytes([1, 2, 1, 2, 1])]

    def score(model: LanguageModel, *, learn: bool) -> float:
        nats = []
        for passage in (passages[0], passages[2]):
            ids = torch.tensor([list(passage)])
            seen = observe(model, ids[:, :-1], ids[:, 1:], model.init_state(1))
            logits = seen.logits if learn else logits_of(model, ids[:, :-1])
            nats.append(F.cross_entropy(logits[0], ids[0, 1:], reduction="none"))
        return float(torch.cat(nats).mean()) / math.log(2.0)

    model = model_of(levels=[{"rate": 0.02}])
    learning = learning_bits_per_byte(model, passages)
    assert learning == pytest.approx(score(model, learn=True), rel=1e-9)
    assert learning < score(model, learn=False)
    assert learning_bits_per_byte(model_of(levels=[{}]), passages) == pytest.approx(score(model, learn=False), rel=1e-9)
    with pytest.raises(DataError, match="no passage of two bytes"):
        learning_bits_per_byte(model, [b"x"])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"levels": [{"rate": 0.1}, {"write_period": 1}], "deployment": "nested"}, "nested needs each level slower"),
        (
            {"levels": [{"reset_period": 2}, {"write_period": 4}], "deployment": "nested"},
            r"levels\[0\].reset_period = 2: nested levels begin anew when the next slower one learns",
        ),
        ({"levels": [{"gates": {"write": {"high": 0.1}}}]}, r"levels\[0\].gates: an MLP has no gates"),
        ({"levels": [{}, {"frequency": "learned"}]}, r"levels\[1\].frequency = .learned.: the level takes no step"),
        ({"levels": [{"rate": -1.0}]}, r"levels\[0\].rate = -1.0; expected a finite number >= 0"),
        ({"levels": [{"write_perod": 2}]}, 'did you mean "write_period"'),
        ({"levels": [{}], "deployment": "nestd"}, "deployment = .nestd."),
        ({"levels": [{}, {}], "deployment": "independent", "aggregate": "mean"}, "aggregate = .mean."),
        ({"levels": [{}], "grain": 0}, "grain = 0"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(HecateError, match=reason):
        CMS(WIDTH, **given)
