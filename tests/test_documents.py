"""Documents that begin inside a row and rows of different length: as if each text had been run alone."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from hecate_core import MemoryLayer, memory
from hecate_core.composing import rule_of
from hecate_core.errors import CompositionError, InputError
from hecate_core.forms import Affine, Linearised, Refused, Sequenced
from hecate_core.records import State
from hecate_core.registry import registry
from hecate_core.shapes import Tensor
from hecate_core.testing.samples import RuleCase

from .sequences import AFFINE_RULES, relative

# A rule with a window gathers earlier tokens: it refuses documents, with the reason.
DOCUMENT_RULES = [name for name in AFFINE_RULES if rule_of(name).offers(Affine).gather is None]  # type: ignore[union-attr]

EXACT = 1e-10  # float64: two orders of the same sums
COUNT = 24
BORDERS = ([0, 9, 10, 20], [4, 17])  # the documents of row 0 and of row 1; row 1 goes on with what it had until 4


def sequence(rule: Any, count: int = COUNT) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and gates of a rule at widths that it takes, two rows and two heads."""
    made = rule_of(rule)
    tokens = RuleCase(made).tokens(count)
    return {name: tokens[name] for name in made.inputs}, {name: tokens[name] for name in made.gates}


def starts_of(borders: Any = BORDERS, count: int = COUNT) -> Tensor:
    marks = torch.zeros(len(borders), count, dtype=torch.bool)
    for row, places in enumerate(borders):
        marks[row, places] = True
    return marks


def piece(given: dict[str, Tensor], row: int, start: int, stop: int) -> dict[str, Tensor]:
    return {name: one[row : row + 1, :, start:stop] for name, one in given.items()}


def one_by_one(
    rule: Any, inputs: dict[str, Tensor], gates: dict[str, Tensor], write: Tensor | None = None
) -> tuple[list[Tensor], list[State]]:
    """Every document by itself under `sequential`: reads of each row, and the state its last document leaves."""
    reads, ends = [], []
    for row, places in enumerate(BORDERS):
        edges = sorted({0, *places, COUNT})
        texts = list(pairwise(edges))
        made = []
        for start, stop in texts:
            mask = None if write is None else write[row : row + 1, start:stop]
            y, end = memory(
                **piece(inputs, row, start, stop),
                rule=rule,
                gates=piece(gates, row, start, stop),
                strategy="sequential",
                write_mask=mask,
            )
            made.append(y)
        reads.append(torch.cat(made, 2))
        ends.append(end)
    return reads, ends


def assert_alone(rule: Any, strategy: str, chunk: int, write: Tensor | None = None) -> None:
    inputs, gates = sequence(rule)
    expected, ends = one_by_one(rule, inputs, gates, write)
    y, end = memory(
        **inputs, rule=rule, gates=gates, strategy=strategy, chunk_size=chunk, starts=starts_of(), write_mask=write
    )
    assert relative(y, torch.cat(expected)) < EXACT
    assert end.position == COUNT
    for name, tensor in end.flat().items():
        if not name.startswith("anchor"):
            assert relative(tensor, torch.cat([one.flat()[name] for one in ends])) < EXACT, name


@pytest.mark.parametrize("rule", DOCUMENT_RULES)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_documents_of_an_affine_rule_do_not_see_each_other(rule: str, chunk: int) -> None:
    assert_alone(rule, "chunkwise", chunk)


@pytest.mark.parametrize("rule", DOCUMENT_RULES)
def test_a_masked_first_token_still_begins_a_document(rule: str) -> None:
    write = torch.ones(2, COUNT, dtype=torch.bool)
    write[0, 9:12] = write[1, 4] = write[1, 21:] = False
    for strategy in ("sequential", "chunkwise"):
        assert_alone(rule, strategy, 7, write)


@pytest.mark.parametrize("rule", registry().names("rule"))
def test_sequential_serves_documents_of_every_rule(rule: str) -> None:
    assert_alone(rule, "sequential", 1)


OWN_STEPS = [name for name in registry().names("rule") if isinstance(rule_of(name).offers(Sequenced), Sequenced)]
ZERO_TRELLIS = [{"name": "trellis", "start": "zeros"}] if "trellis" in OWN_STEPS else []


@pytest.mark.parametrize("rule", ZERO_TRELLIS)
def test_sequential_serves_documents_of_a_rule_with_an_op_and_a_first_memory_of_0(rule: Any) -> None:
    assert_alone(rule, "sequential", 1)


@torch.no_grad()
@pytest.mark.parametrize("rule", [*OWN_STEPS, *ZERO_TRELLIS], ids=str)
def test_a_layer_whose_strategy_has_the_op_takes_steps_for_documents(rule: Any) -> None:
    layer, x = layer_of("sequential", rule=rule), activations()
    assert layer.memory.levels[0].pairs  # type: ignore[union-attr]
    assert_layer_alone(layer, x)


def exact_frozen() -> list[str]:
    forms = {name: rule_of(name).offers(Linearised) for name in registry().names("rule")}
    return [name for name, form in forms.items() if not isinstance(form, Refused) and form.exact]


@pytest.mark.parametrize("rule", exact_frozen())
def test_frozen_serves_documents_where_it_is_exact(rule: str) -> None:
    assert_alone(rule, "frozen", 5)


def test_frozen_serves_momentum_and_channels_too_where_it_is_exact() -> None:
    for retention, algorithm in (("column", "gd"), ("row", "gd"), ("scalar", "momentum"), ("column", "momentum")):
        rule = {"structure": "matrix", "bias": "dot", "retention": retention, "algorithm": algorithm}
        assert_alone(rule, "frozen", 5)


@pytest.mark.parametrize("rule", DOCUMENT_RULES)
def test_gradients_of_documents_equal_those_of_the_token_loop(rule: str) -> None:
    inputs, gates = sequence(rule)
    leaves = [one.requires_grad_() for one in (*inputs.values(), *gates.values())]
    found = []
    for strategy in ("chunkwise", "sequential"):
        y, end = memory(**inputs, rule=rule, gates=gates, strategy=strategy, chunk_size=7, starts=starts_of())
        weighting = torch.linspace(-1.0, 1.0, y.numel(), dtype=y.dtype).view(y.shape)
        total = (y * weighting).sum() + sum(one.sum() for one in end.flat().values())
        found.append(torch.autograd.grad(total, leaves))
    for one, two in zip(*found, strict=True):
        assert relative(one, two) < EXACT


REFUSALS: list[tuple[Any, dict[str, Any], str]] = [
    ("delta", {"strategy": "frozen"}, "document starts: gradients are taken at the memory that a chunk began with"),
    ({"name": "delta", "learn_start": True}, {}, "document starts: the first memory is not 0"),
    ("delta", {"params": {"matrix": torch.ones(2, 3, 4, dtype=torch.float64)}}, "the first memory is not 0"),
]


@pytest.mark.parametrize(("rule", "options", "words"), REFUSALS)
def test_what_would_not_be_exact_is_refused_with_the_reason(rule: Any, options: dict[str, Any], words: str) -> None:
    inputs, gates = sequence(rule)
    memory(**inputs, rule=rule, gates=gates, **options)  # without documents all is well
    with pytest.raises(CompositionError, match=words):
        memory(**inputs, rule=rule, gates=gates, starts=starts_of(), **options)


def test_wrong_marks_are_one_line() -> None:
    inputs, gates = sequence("delta")
    for wrong in (starts_of()[:, 1:], starts_of().float()):
        with pytest.raises(InputError, match=r"starts is .* expected bool \[B, T\] = \[2, 24\]"):
            memory(**inputs, rule="delta", gates=gates, starts=wrong)


@pytest.mark.parametrize("rule", registry().names("rule"))
def test_rows_of_different_length_are_as_if_alone(rule: str) -> None:
    """Short rows are filled up with anything and masked: their reads and their memory are those of the short text."""
    inputs, gates = sequence(rule)
    lengths = [COUNT, 11]
    write = torch.arange(COUNT) < torch.tensor(lengths).unsqueeze(1)
    y, end = memory(**inputs, rule=rule, gates=gates, strategy="sequential", write_mask=write)
    strategies = ["sequential", *(["chunkwise"] if rule in AFFINE_RULES else [])]
    for strategy in strategies:
        z, after = memory(**inputs, rule=rule, gates=gates, strategy=strategy, chunk_size=7, write_mask=write)
        assert relative(z, y) < EXACT
        for row, length in enumerate(lengths):
            alone, last = memory(
                **piece(inputs, row, 0, length),
                rule=rule,
                gates=piece(gates, row, 0, length),
                strategy=strategy,
                chunk_size=7,
            )
            assert relative(z[row : row + 1, :, :length], alone) < EXACT
            for name, tensor in last.flat().items():
                assert relative(after.flat()[name][row : row + 1], tensor) < EXACT, name
    assert end.position == COUNT


def layer_of(strategy: str = "chunkwise", levels: Any = None, rule: Any = "titans") -> MemoryLayer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MemoryLayer(8, 2, rule=rule, strategy=strategy, chunk=5, levels=levels).double()


def activations() -> Tensor:
    return torch.randn(2, COUNT, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def assert_layer_alone(layer: MemoryLayer, x: Tensor) -> None:
    y, _ = layer(x, starts=starts_of())
    for row, places in enumerate(BORDERS):
        edges = sorted({0, *places, COUNT})
        alone = [layer(x[row : row + 1, start:stop])[0] for start, stop in pairwise(edges)]
        assert relative(y[row : row + 1], torch.cat(alone, 1)) < EXACT


@torch.no_grad()
def test_a_layer_mixes_nothing_across_documents_convolution_included() -> None:
    layer, x = layer_of(), activations()
    assert_layer_alone(layer, x)
    plain, _ = layer(x)
    marked, _ = layer(x, starts=torch.zeros(2, COUNT, dtype=torch.bool))
    assert relative(marked, plain) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("levels", [None, [1, 2], [3]])
def test_a_layer_with_documents_may_be_cut_anywhere(levels: Any) -> None:
    layer, x, marks = layer_of(levels=levels), activations(), starts_of()
    expected, end = layer(x, starts=marks)
    for sizes in ([3, 0, 6, 1, 1, 13], [1] * COUNT):
        state, reads = None, []
        for part, mark in zip(x.split(sizes, 1), marks.split(sizes, 1), strict=True):
            y, state = layer(part, state, starts=mark)
            reads.append(y)
        assert relative(torch.cat(reads, 1), expected) < EXACT
        assert state is not None
        for name, tensor in end.flat().items():
            assert relative(state.flat()[name], tensor) < EXACT, name


@torch.no_grad()
@pytest.mark.parametrize("levels", [None, [1, 2], [3]])
def test_what_came_before_a_document_changes_nothing_in_it(levels: Any) -> None:
    """Bit for bit, in levels that rest when the document begins as well."""
    layer, x, marks = layer_of(levels=levels), activations(), starts_of(([10], [10]))
    other = x.clone()
    other[:, :10] = 7.0
    assert torch.equal(layer(x, starts=marks)[0][:, 10:], layer(other, starts=marks)[0][:, 10:])
    assert not torch.equal(layer(x)[0][:, 10:], layer(other)[0][:, 10:])


def test_a_layer_refuses_documents_under_frozen() -> None:
    layer = layer_of("frozen")
    with pytest.raises(CompositionError, match="document starts"):
        layer(activations(), starts=starts_of())


@pytest.mark.parametrize("rule", sorted(set(AFFINE_RULES) - set(DOCUMENT_RULES)))
def test_a_rule_with_a_window_refuses_documents(rule: str) -> None:
    inputs, gates = sequence(rule)
    starts = torch.zeros(2, COUNT, dtype=torch.bool)
    starts[0, 9] = True
    with pytest.raises(CompositionError) as error:
        memory(**inputs, rule=rule, gates=gates, starts=starts)
    assert "\n" not in str(error.value)
