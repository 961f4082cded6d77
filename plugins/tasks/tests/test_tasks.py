"""The generators match their published definitions, and leaked answers score 1 while a constant scores chance."""

import math
import re
from importlib import resources

import pytest
import torch
from hecate_tasks.copying import Copy, RepeatedPattern
from hecate_tasks.mqar import MultiQueryRecall
from hecate_tasks.niah import NeedlesInHaystack
from hecate_tasks.passkey import Passkey
from hecate_tasks.timescales import TwoTimescale
from hecate_tasks.words import Parity, SymmetricGroup
from torch import Tensor, nn

from hecate_core.composing import registry
from hecate_core.errors import CheckpointError, InputError
from hecate_core.evaluation import accuracy, lift
from hecate_core.records import State
from hecate_core.tasks import Sample, TaskStream, drawn

TASKS = registry().names("task")


class Leaky(nn.Module):
    """A model that is told the answers: logits are 1 at the target of the task's held-out contexts."""

    def __init__(self, answers: dict[bytes, Tensor], vocab: int, constant: int | None = None) -> None:
        super().__init__()
        self.head = nn.Linear(1, vocab)
        self.vocab, self._answers, self._constant = vocab, answers, constant

    def init_state(self, batch: int) -> State:
        return State()

    def forward(self, ids: Tensor, state: State, write: Tensor | None = None) -> tuple[Tensor, State]:
        if self._constant is not None:
            chosen = torch.full_like(ids, self._constant)
        else:
            chosen = torch.stack([self._answers[row.numpy().tobytes()] for row in ids]).clamp(min=0)
        return torch.nn.functional.one_hot(chosen, self.vocab).double() * 20.0, state


def answers(task: object) -> dict[bytes, Tensor]:
    found = {}
    for part in range(0, 256, 16):
        ids, targets = drawn(task, 16, 0, "held-out", part)  # type: ignore[arg-type]
        found |= {row.numpy().tobytes(): target for row, target in zip(ids, targets, strict=True)}
    return found


@pytest.mark.parametrize("name", TASKS)
def test_leaked_answers_score_one_and_a_constant_scores_chance(name: str) -> None:
    task = registry().create("task", name)
    assert accuracy(Leaky(answers(task), task.vocab), task, 0) == 1.0  # type: ignore[arg-type]
    likeliest = torch.cat([t[t >= 0] for t in answers(task).values()]).bincount().topk(2).indices.tolist()
    constants = [accuracy(Leaky({}, task.vocab, c), task, 0) for c in likeliest]  # type: ignore[arg-type]
    spread = math.sqrt(task.chance * (1.0 - task.chance) / 256)  # as if each context asked once
    assert max(constants) < task.chance + 4.0 * spread
    if task.vocab == 2:
        assert sum(constants) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", TASKS)
def test_answers_that_do_not_depend_on_the_context_score_chance(name: str) -> None:
    """Each of 16 fixed rows of answers, given to every context: constants, one for each place that is asked."""
    task = registry().create("task", name)
    rows = [row[row >= 0] for row in drawn(task, 2048, 0, "check").targets]
    right = counted = 0
    for fixed in rows[:16]:
        for row in rows[16:]:
            both = min(len(fixed), len(row))
            right += int((fixed[:both] == row[:both]).sum())
            counted += both
    assert right / counted == pytest.approx(task.chance, rel=0.12)  # four standard errors of the rarest, mqar


def test_lift_is_told_where_questions_move() -> None:
    """Of two contexts of MQAR hardly ever one place is asked in both."""
    task = MultiQueryRecall(vocab=16, tokens=256, pairs=1, power=1.0)
    assert lift(Leaky(answers(task), 16), task, 0) > 10.0  # type: ignore[arg-type]
    assert lift(Leaky({}, 16, 3), task, 0) == pytest.approx(0.0, abs=2.0)  # type: ignore[arg-type]


def test_a_task_that_asks_nothing_is_refused() -> None:
    class Silent:
        name, vocab, tokens, chance = "silent", 4, 8, 0.25

        def sample(self, count: int, random: torch.Generator) -> Sample:
            return Sample(torch.zeros(count, 8, dtype=torch.int64), torch.full((count, 8), -1))

    for score in (accuracy, lift):
        with pytest.raises(InputError, match='task "silent": no counted target in 256 contexts; expected some'):
            score(Leaky({}, 4, 0), Silent(), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TASKS)
def test_contexts_depend_on_seed_and_number_alone(name: str) -> None:
    task = registry().create("task", name)
    one, two = drawn(task, 4, 0, 7), drawn(task, 4, 0, 7)
    assert torch.equal(one.ids, two.ids)
    assert not torch.equal(one.ids, drawn(task, 4, 0, 8).ids)
    assert not torch.equal(one.ids, drawn(task, 4, 1, 7).ids)
    assert one.ids.dtype == one.targets.dtype == torch.int64


def test_mqar_asks_every_key_for_its_value() -> None:
    task = MultiQueryRecall(vocab=64, tokens=48, pairs=6)
    ids, targets = drawn(task, 200, 0, "check")
    for row, wanted in zip(ids, targets, strict=True):
        pairs = dict(zip(row[:12:2].tolist(), row[1:12:2].tolist(), strict=True))
        asked = (wanted >= 0).nonzero().flatten().tolist()
        assert sorted(row[asked].tolist()) == sorted(pairs)
        assert all(pairs[int(row[at])] == int(wanted[at]) for at in asked)
        assert all(at >= 12 and at % 2 == 0 for at in asked)
        assert all(1 <= key < 32 <= value for key, value in pairs.items())


def test_mqar_without_noise_differs_in_nothing_but_the_noise() -> None:
    (ids, targets), (plain, same) = (drawn(MultiQueryRecall(noise=noise), 50, 0, "check") for noise in (True, False))
    assert torch.equal(targets, same)
    said = (torch.arange(64) < 16) | (targets >= 0)
    assert torch.equal(torch.where(said, ids, 0), plain)


def test_mqar_gaps_follow_the_power_law() -> None:
    """With one pair there is no exclusion between queries: frequencies are the formula's."""
    task = MultiQueryRecall(vocab=16, tokens=22, pairs=1, power=0.3)
    _, targets = drawn(task, 20_000, 0, "law")
    slots = ((targets >= 0).int().argmax(1) - 2) // 2
    found = torch.bincount(slots, minlength=10).double() / 20_000
    weights = torch.tensor([slot ** (0.3 - 1.0) for slot in range(1, 11)], dtype=torch.float64)
    assert torch.allclose(found, weights / weights.sum(), atol=0.012)


def test_parity_is_the_running_xor() -> None:
    ids, targets = drawn(Parity(tokens=30), 50, 0, "check")
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        state = 0
        for bit, expected in zip(row, wanted, strict=True):
            state ^= bit
            assert state == expected


def test_s3_is_a_group_that_does_not_commute() -> None:
    table = SymmetricGroup()._table
    assert torch.equal(table[0], torch.arange(6))
    assert all(sorted(row) == list(range(6)) for row in table.tolist())
    assert not torch.equal(table, table.T)
    for a in range(6):
        for b in range(6):
            assert torch.equal(table[table[a, b]], table[a][table[b]])


def test_copy_and_recall_repeat_what_was_read() -> None:
    ids, targets = drawn(Copy(vocab=9, symbols=5), 20, 0, "check")
    assert torch.equal(targets[:, 5:], ids[:, :5])
    assert bool((ids[:, 5] == 8).all())
    ids, targets = drawn(RepeatedPattern(), 20, 0, "check")
    assert torch.equal(targets[:, 8:], ids[:, 1:-7])
    assert bool((targets[:, :7] == -1).all())


def test_two_timescales_change_and_stay() -> None:
    task = TwoTimescale(vocab=16, fast=3, change=8, slow=6, tokens=63)
    ids, targets = drawn(task, 40, 0, "check")
    quick, steady = ids[:, ::2], ids[:, 1::2]
    assert int(quick.max()) < 8 <= int(steady.min())
    assert torch.equal(steady[:, 6:], steady[:, :-6])  # the slow pattern never changes
    for epoch in quick.split(8, 1):
        assert torch.equal(epoch[:, 3:], epoch[:, :-3])
    first, second = quick[:, :3], quick[:, 8:11]
    assert bool((first != second).any(1).float().mean() > 0.9)  # the fast one does
    wanted = torch.cat((ids[:, :1], targets), 1)[:, 1:64]
    known = wanted >= 0
    assert torch.equal(wanted[:, :-1][known[:, :-1]], ids[:, 1:][known[:, :-1]])  # the next token, where it counts
    fast_known, slow_known = known[0, 1::2], known[0, ::2]  # at an odd place the next token is of the fast stream
    assert [n + 1 for n in range(31) if fast_known[n]] == [n for n in range(1, 32) if n % 8 >= 3]
    assert [n for n in range(31) if slow_known[n]] == list(range(6, 31))


def test_passkey_stands_in_the_text_and_lift_measures_its_use() -> None:
    task = Passkey(tokens=200)
    ids, targets = drawn(task, 64, 0, "check")
    depths = []
    for row, wanted in zip(ids, targets, strict=True):
        text, key = bytes(row.tolist()), bytes(wanted[wanted >= 0].tolist())
        assert b" the key is " + key + b" keep it. " in text
        depths.append(text.index(b" the key is "))
    assert min(depths) < 30 < 80 < max(depths)
    told = Leaky(answers(task), 256)
    assert lift(told, task, 0) > 10.0  # type: ignore[arg-type]
    assert lift(Leaky({}, 256, 48), task, 0) == pytest.approx(0.0, abs=2.0)  # type: ignore[arg-type]
    assert math.isfinite(lift(told, task, 1 - 1))  # type: ignore[arg-type]


def test_lift_compares_with_the_context_that_its_equation_names() -> None:
    task, own, previous, following = Passkey(tokens=80), answers(Passkey(tokens=80)), {}, {}
    for part in range(0, 256, 16):
        ids, targets = drawn(task, 16, 0, "held-out", part)
        rows = [row.numpy().tobytes() for row in ids]
        previous |= dict(zip(rows, targets.roll(1, 0), strict=True))
        following |= dict(zip(rows, targets.roll(-1, 0), strict=True))
    knows_both = {"previous": lifted(own, previous, task), "next": lifted(own, following, task)}
    equation = next(line for line in spec_of(task).splitlines() if line.startswith("2. Lift:"))
    named = [word for word in knows_both if f"digit of the {word} context" in equation]
    assert named == [min(knows_both, key=lambda word: knows_both[word])]  # what it knows of that one costs it lift
    assert knows_both["previous"] != pytest.approx(knows_both["next"], abs=1.0)


def lifted(own: dict[bytes, Tensor], other: dict[bytes, Tensor], task: Passkey) -> float:
    """The lift of a model that finds its own digits likeliest and another context's nearly as likely."""
    one, two = Leaky(own, 256), Leaky(other, 256)

    def both(ids: Tensor, state: State, write: Tensor | None = None) -> tuple[Tensor, State]:
        return one.forward(ids, state)[0] + 0.75 * two.forward(ids, state)[0], state

    model = Leaky(own, 256)
    model.forward = both  # type: ignore[method-assign]
    return lift(model, task, 0)  # type: ignore[arg-type]


def spec_of(task: Passkey) -> str:
    return resources.files("hecate_tasks").joinpath("specs", task.spec).read_text()


def test_needles_differ_in_their_word_and_every_one_is_asked_for() -> None:
    task = NeedlesInHaystack(tokens=300, needles=3, digits=2)
    ids, targets = drawn(task, 90, 0, "check")
    places = []
    for row, wanted in zip(ids, targets, strict=True):
        text, answer = bytes(row.tolist()), bytes(wanted[wanted >= 0].tolist())
        haystack, question = text.split(b" what is ")
        said = re.findall(rb" the number of (\w+) is (\d+)\. ", haystack)
        assert len({word for word, _ in said}) == 3
        word = re.fullmatch(rb"the number of (\w+)\? the number of \1 is \d?", question)
        assert word is not None
        places.append([name for name, _ in said].index(word[1]))
        assert said[places[-1]][1] == answer
    assert [places.count(place) for place in range(3)] == pytest.approx([30] * 3, abs=12)


def test_stream_is_restored_anywhere_and_refuses_what_is_not_its_own() -> None:
    task = Parity(tokens=8)
    stream = TaskStream(task, batch=3, seed=5)
    chunks = [stream.next_chunk() for _ in range(6)]
    cursor = stream.cursor(pulse_id=6).as_dict()
    for chunk_id in range(6):
        again = TaskStream(task, batch=3, seed=5)
        again.restore({**cursor, "chunk_id": chunk_id}, pulse_id=6)
        assert torch.equal(again.next_chunk().input, chunks[chunk_id].input)
    for change in ({"task": "s3"}, {"seed": 4}, {"chunk_id": -1}, {"chunk_id": "1"}, {"pulse_id": 5}):
        with pytest.raises(CheckpointError):
            TaskStream(task, batch=3, seed=5).restore({**cursor, **change}, pulse_id=6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MultiQueryRecall(tokens=20, pairs=8),
        lambda: MultiQueryRecall(vocab=8, pairs=8),
        lambda: Parity(tokens=0),
        lambda: SymmetricGroup(tokens=0),
        lambda: Copy(vocab=2),
        lambda: RepeatedPattern(period=20),
        lambda: Passkey(tokens=10),
        lambda: NeedlesInHaystack(tokens=100),
        lambda: NeedlesInHaystack(needles=17),
        lambda: TwoTimescale(slow=17),
        lambda: TwoTimescale(change=4),
    ],
)
def test_impossible_sizes_are_refused(make: object) -> None:
    with pytest.raises(InputError, match="expected"):
        make()  # type: ignore[operator]
