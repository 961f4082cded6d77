"""Where core is marked as differentiated: each mark is needed, none encloses a model, and their number is known."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hecate_core import MemoryLayer
from hecate_core.blueprint import compose
from hecate_core.cli.build import example
from hecate_core.composing import leveled_memory
from hecate_core.config import load_config
from hecate_core.differentiation import SeveredGradient, Tape, cut
from hecate_core.model import LanguageModel, next_token_loss
from hecate_core.records import State
from hecate_core.shapes import Tensor

WIDTH, TOKENS = 8, 6


def demo_model() -> LanguageModel:
    return compose(load_config(example("demo"), ["model.width=16", "model.attention.window=4"]))


def small_memory(**options: Any) -> Any:
    return leveled_memory(WIDTH, 2, rule="titans", chunk=4, **options)


def activations(width: int = WIDTH) -> Tensor:
    return torch.randn(2, TOKENS, width, generator=torch.Generator().manual_seed(0))


def front() -> Any:
    level = small_memory().levels[0]
    state = level.init_state(2).front
    x = activations()
    return lambda: level.front(x, state)[0].k


def gate_head() -> Any:
    level = small_memory().levels[0]
    x = activations()
    return lambda: level.gates(x).retain


def strategy_call() -> Any:
    level = small_memory().levels[0]
    state = level.init_state(2)
    inputs, _ = level.front(activations(), state.front)
    gates = level.gates(activations())
    return lambda: level._spread(inputs, gates, state.rule, 0, None)[0]


def plain_read() -> Any:
    level = small_memory(recalls=True).levels[0]
    state = level.init_state(2)
    inputs, _ = level.front(activations(), state.front)
    _, after = level._spread(inputs, level.gates(activations()), state.rule, 0, None)
    return lambda: level._read(inputs, after)


def sum_of_levels() -> Any:
    memory = small_memory(levels=[1, 2])
    reads = [activations().requires_grad_() * 1.0 for _ in range(2)]
    return lambda: memory._sum(reads)


def mixer() -> Any:
    block = demo_model().blocks[0]
    state = block.init_state(2)
    x = activations(16)
    return lambda: block.mixer(x, state)[0]


def block_norm() -> Any:
    block = demo_model().blocks[0]
    x = activations(16)
    return lambda: block._normed(x)


def block_transform() -> Any:
    block = demo_model().blocks[0]
    x, y = activations(16), activations(16)
    return lambda: block._transform(x, y, None, None)[0]


def embedding() -> Any:
    model, ids = demo_model(), torch.zeros(2, TOKENS, dtype=torch.int64)
    return lambda: model._embed(ids)


def logits() -> Any:
    model = demo_model()
    x = activations(16)
    return lambda: model._logits(x)


def loss() -> Any:
    made, ids = activations(256).requires_grad_() * 1.0, torch.zeros(2, TOKENS, dtype=torch.int64)
    return lambda: next_token_loss(made, ids)


def output_of_layer() -> Any:
    layer = MemoryLayer(WIDTH, 2)
    x, y = activations(), activations()
    return lambda: layer._out(y, x)


MARKED = [
    front, gate_head, strategy_call, plain_read, sum_of_levels, mixer,
    block_norm, block_transform, embedding, logits, loss, output_of_layer,
]  # fmt: skip


@pytest.mark.parametrize("prepare", MARKED, ids=lambda one: one.__name__)
def test_mark_keeps_the_gradient(prepare: Callable[[], Callable[[], Tensor]]) -> None:
    """Under a Tape unmarked code makes inference tensors; each of these must not."""
    call = prepare()  # makes the inputs too: they stand outside, as a batch does
    with Tape() as tape:
        out = call()
    assert out.requires_grad
    assert not out.is_inference()
    assert sum(tape.entries.values()) == 1


def test_demo_model_has_nine_entries_and_none_is_the_model() -> None:
    model = demo_model()
    ids, state = torch.zeros(2, TOKENS, dtype=torch.int64), model.init_state(2)
    with Tape() as tape:
        out, _ = model(ids, state)
        total = next_token_loss(out, ids)
    tape.audit(total)
    assert sum(tape.entries.values()) == 9
    assert not any(name.endswith(("LanguageModel.forward", "Block.forward")) for name in tape.entries)


def test_unmarked_glue_is_noticed() -> None:
    model = demo_model()
    ids, state = torch.zeros(2, TOKENS, dtype=torch.int64), model.init_state(2)
    with Tape():
        out, _ = model(ids, state)
        doubled = out * 2.0
        with pytest.raises(SeveredGradient):
            next_token_loss(doubled, ids)


def test_layer_under_a_tape_in_a_plain_loop_and_under_a_tape_again() -> None:
    layer, x = MemoryLayer(WIDTH, 2), activations()
    parameters = dict(layer.named_parameters())

    def plain(state: State) -> tuple[list[Tensor], State]:
        y, after = layer(x, state)
        return list(torch.autograd.grad(y.square().sum(), list(parameters.values()))), after.map(cut)

    def taped(state: State) -> tuple[list[Tensor], State]:
        with Tape() as tape:
            y, after = layer(x, state)
        return list(tape.grad(y.square().sum(), parameters).values()), after.map(cut)  # type: ignore[arg-type]

    first, state = taped(layer.init_state(2))
    expected, _ = plain(layer.init_state(2))
    again, _ = taped(state)
    expected_again, _ = plain(state)
    for one, two in zip([*first, *again], [*expected, *expected_again], strict=True):
        assert torch.equal(one, two)
