"""A text in one call, in ragged pieces, or token by token: the same outputs and the same state."""

import pytest
import torch

from hecate_core.mixer import Mixer
from hecate_core.model import LanguageModel
from hecate_core.records import State, positions_of, unflat
from hecate_core.shapes import Tensor
from hecate_core.testing.members import SCHEDULES, WIDTH, Cell, cells, tiny_mixer

from .sequences import relative
from .thinned import crossed_cells, thinned_schedules

COUNT = 17
SAME = 1e-10  # float64: the same sums in another order
PREFILL = [9, *[1] * (COUNT - 9)]
RAGGED = ([3, 0, 5, 1, 8], [1, 4, 12])


def in_pieces(mixer: Mixer, x: Tensor, sizes: list[int]) -> tuple[Tensor, State]:
    state, reads = mixer.init_state(x.shape[0]), []
    with torch.no_grad():
        for piece in x.split(sizes, 1):
            y, state = mixer(piece, state)
            reads.append(y)
    return torch.cat(reads, 1), state


def sentence() -> Tensor:
    return torch.randn(2, COUNT, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def assert_same(mixer: Mixer, sizes: list[int]) -> None:
    expected, end = in_pieces(mixer, sentence(), [COUNT])
    y, state = in_pieces(mixer, sentence(), sizes)
    assert relative(y, expected) < SAME
    assert state.flat().keys() == end.flat().keys()
    for name, tensor in end.flat().items():
        assert relative(state.flat()[name], tensor) < SAME, name
    assert positions_of(state) == positions_of(end)
    assert state.position == COUNT


@pytest.mark.parametrize(("cell", "schedule"), thinned_schedules(exact=True))
def test_prefill_then_token_by_token_equals_one_call(cell: Cell, schedule: str) -> None:
    assert_same(tiny_mixer(cell, SCHEDULES[schedule]), PREFILL)


@pytest.mark.parametrize(("cell", "schedule"), thinned_schedules())
def test_ragged_pieces_equal_one_call(cell: Cell, schedule: str) -> None:
    mixer = tiny_mixer(cell, SCHEDULES[schedule])
    for sizes in RAGGED:
        assert_same(mixer, sizes)


@pytest.mark.parametrize("cell", [cell for cell in cells(exact=True) if cell.strategy != "sequential"], ids=str)
def test_the_chunk_of_an_exact_strategy_changes_nothing(cell: Cell) -> None:
    outputs = []
    for chunk in (1, 5, 64):
        mixer = tiny_mixer(cell, memory={"chunk": chunk})
        outputs.append(in_pieces(mixer, sentence(), [COUNT])[0])
    assert relative(outputs[1], outputs[0]) < SAME
    assert relative(outputs[2], outputs[0]) < SAME


@pytest.mark.parametrize("cell", cells(exact=True), ids=str)
def test_exact_strategies_decode_token_by_token_as_sequential_does(cell: Cell) -> None:
    """Prefill under the fast form, decoding one token per call under the meaning: one state serves both."""
    if cell.rule is None:
        pytest.skip("no memory, no strategy")
    fast, plain = tiny_mixer(cell), tiny_mixer(Cell(cell.composition, cell.rule, "sequential"))
    plain.load_state_dict(fast.state_dict())
    expected, _ = in_pieces(fast, sentence(), [COUNT])
    with torch.no_grad():
        y, state = fast(sentence()[:, :9], fast.init_state(2))
        reads = [y]
        for t in range(9, COUNT):
            y, state = plain(sentence()[:, t : t + 1], state)
            reads.append(y)
    assert relative(torch.cat(reads, 1), expected) < SAME


@pytest.mark.parametrize("cell", crossed_cells(exact=True))
def test_a_language_model_of_two_blocks_streams(cell: Cell) -> None:
    torch.manual_seed(0)
    memory = None
    if cell.rule is not None:
        memory = {"rule": cell.rule, "strategy": cell.strategy, "chunk": 4, "levels": (1, 2), "widths": {"M": 3}}
    mixer = {"composition": cell.composition, "attention": {"window": 4, "persistent": 2}, "memory": memory}
    model = LanguageModel(vocab=11, width=8, depth=2, block={"heads": 2, "mixer": mixer}).double()
    ids = torch.randint(0, 11, (2, COUNT), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, _ = model(ids, model.init_state(2))
        state, reads = model.init_state(2), []
        for piece in ids.split(PREFILL, 1):
            logits, state = model(piece, state)
            reads.append(logits)
    assert relative(torch.cat(reads, 1), expected) < SAME
    assert state.position == COUNT


def test_a_state_without_tensors_comes_back_from_its_names() -> None:
    """A front without a convolution carries nothing but its position; a checkpoint must not lose it."""
    mixer = tiny_mixer(next(cell for cell in cells(exact=True) if cell.rule), memory={"conv": 0})
    with torch.no_grad():
        _, state = mixer(sentence()[:, :9], mixer.init_state(2))
        restored = unflat(state.flat(), positions_of(state))
        assert positions_of(restored) == positions_of(state)
        y, _ = mixer(sentence()[:, 9:], restored)
        assert torch.equal(y, mixer(sentence()[:, 9:], state)[0])
