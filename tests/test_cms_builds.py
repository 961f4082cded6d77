"""Chains of MLPs in a build and in generation: learning as it reads beside the outer loop, and from a prompt."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import pytest
import torch

from hecate_core.blueprint import compose
from hecate_core.building import Build
from hecate_core.checking.cells import tiny_corpus
from hecate_core.config import make_config
from hecate_core.errors import HecateError, InputError
from hecate_core.generation import generate
from hecate_core.model import Block, LanguageModel
from hecate_core.observing import observe
from hecate_core.records import State
from hecate_core.shapes import Tensor

from .chains import GRAIN, VOCAB, demand_same_when_resumed, level_of, model_of, table


def build_of(**run: Any) -> Build:
    levels = [{"rate": 0.1}, {"write_period": 3, "update_period": 3, "rate": 0.1, "reduce": "mean"}]
    return Build(make_config(table(levels=levels, run=run)), tiny_corpus(VOCAB))


def test_a_build_resumes_inside_a_period_bit_for_bit() -> None:
    unbroken = build_of()
    for _ in range(4):
        unbroken.step()
    pending = unbroken.state.block0.channel.level1.pending
    assert pending.position == GRAIN
    assert float(pending.up.abs().max()) > 0.0
    demand_same_when_resumed(unbroken, build_of())


def test_the_build_learns_as_observe_does_with_and_without_the_wall() -> None:
    built, bare = build_of(), build_of(wall=False)
    chunk = copy.deepcopy(built).stream.next_chunk()
    expected = observe(built.model, chunk.input, chunk.target, built.state).state
    built.step()
    bare.step()
    for path, one in built.state.flat().items():
        torch.testing.assert_close(one, expected.flat()[path], atol=1e-6, rtol=1e-4)  # float32
        assert torch.equal(one, bare.state.flat()[path])


def test_a_slow_level_moves_at_its_own_steps_and_a_hybrid_has_the_chain_in_some_blocks() -> None:
    built = build_of()
    slow = level_of(built.model, 0, 1)
    weights, records = list[Tensor](), list[dict[str, Any]]()
    for _ in range(4):
        weights.append(slow.up.weight.detach().clone())
        records.append(built.step())
    assert [torch.equal(one, two) for one, two in pairwise(weights)] == [False, True, True]
    assert [sorted(record.get("health", {})) for record in records] == [[], [], [], ["2"]]  # the memory's is level 0
    assert 0.0 < records[3]["health"]["2"] <= 3 * 3**0.5
    hybrid = model_of(levels=[{}, {}], blocks=[1])
    assert [type(cast(Block, block).channel).__name__ for block in hybrid.blocks] == ["SwiGLU", "CMS"]
    assert list(hybrid.init_state(1).block1) == ["memory", "channel"]


def test_a_build_refuses_clocks_and_documents_inside_a_chunk() -> None:
    with pytest.raises(InputError, match=r"every 4 tokens; .* expected a multiple of its 6 tokens"):
        Build(make_config({**table(levels=[{"rate": 0.1}]), "data": {"batch": 2, "length": 6}}), tiny_corpus(VOCAB))
    data = {"batch": 2, "length": GRAIN, "documents": True}
    with pytest.raises(InputError, match=r"documents = true: block0 learns as it reads"):
        Build(make_config({**table(levels=[{"rate": 0.1}]), "data": data}), tiny_corpus(VOCAB))
    with pytest.raises(HecateError, match=r"cms.blocks\[0\] = 2; expected a block below depth = 2"):
        make_config(table(levels=[{}], blocks=[2]))


def test_chunks_of_one_optimizer_step_teach_one_after_the_other() -> None:
    """With two chunks per step a FAST level learns after each, as it does with one; the outer step comes once."""
    built = build_of(accumulate=2)
    ahead, state = copy.deepcopy(built), built.state
    losses = []
    for _ in range(2):
        chunk = ahead.stream.next_chunk()
        seen = observe(ahead.model, chunk.input, chunk.target, state)
        losses.append(seen.loss)
        state = seen.state
    record = built.step()
    assert record["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert built.state.block0.channel.level1.pending.position == 2 * GRAIN
    for path, one in built.state.flat().items():
        torch.testing.assert_close(one, state.flat()[path], atol=1e-6, rtol=1e-4)  # float32


# --- a prompt that teaches ---------------------------------------------------------------------------------------

PROMPT = b"abcabcabcabcabcab"  # four periods and a byte


def speaker(*levels: dict[str, Any]) -> LanguageModel:
    """A model of bytes."""
    given = table(levels=list(levels))
    given["model"]["vocab"] = 256
    return compose(make_config(given))


def told(model: LanguageModel, prompt: bytes = PROMPT, **options: Any) -> bytes:
    return b"".join(generate(model, prompt, count=6, temperature=0.0, **options))


def greedy(model: LanguageModel, logits: Tensor, state: State) -> Iterator[int]:
    """What the likeliest bytes are from here on, nothing judged."""
    for _ in range(6):
        best = int(logits[0, -1].argmax())
        yield best
        with torch.no_grad():
            logits, state = model(torch.tensor([[best]]), state)


def test_a_prompt_teaches_what_observing_it_would() -> None:
    model = speaker({"rate": 0.5})
    before = {name: one.clone() for name, one in model.state_dict().items()}
    ids = torch.tensor([list(PROMPT)])
    targets = torch.cat((ids[:, 1:], torch.tensor([[-1]])), 1)
    seen = observe(model, ids, targets, model.init_state(1))
    expected = bytes(greedy(model, seen.logits, seen.state))
    assert told(model, learn=True) == expected
    assert told(model) != expected
    assert told(model, learn=True) == expected, "a call before leaves nothing behind"
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize(
    ("levels", "prompt", "remember", "reason"),
    [
        ({}, PROMPT, True, "no level learns as it reads"),
        ({"rate": 0.1, "write_period": 5}, PROMPT, True, "the prompt has 17 bytes and no level learns before 20"),
        ({"rate": 0.1}, PROMPT, False, "learn = True with the memory off"),
    ],
)
def test_a_prompt_that_cannot_teach_is_refused(
    levels: dict[str, Any], prompt: bytes, remember: bool, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        told(speaker(levels), prompt, learn=True, remember=remember)
