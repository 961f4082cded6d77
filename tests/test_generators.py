"""Private generators: independent by name, exact to restore, apart from the global ones."""

import random

import pytest
import torch

from hecate_core.errors import CheckpointError, InputError
from hecate_core.generators import Generators


def draw(generators: Generators) -> list[object]:
    return [
        generators.python.random(),
        generators.python.gauss(0, 1),  # keeps a spare value, which is state too
        generators.stream.randrange(10**9),
        torch.randn(3, generator=generators.torch()).tolist(),
    ]


def test_a_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    assert draw(Generators(4)) == draw(Generators(4))
    assert all(one != two for one, two in zip(draw(Generators(4)), draw(Generators(5)), strict=True))


def test_using_one_generator_moves_no_other() -> None:
    one, two = Generators(1), Generators(1)
    for _ in range(9):
        one.python.random()
        torch.rand(4, generator=one.torch())
    assert one.stream.random() == two.stream.random()


def test_restored_generators_continue_bit_for_bit() -> None:
    first = Generators(2)
    draw(first)
    saved = {name: tensor.clone() for name, tensor in first.state().items()}
    assert {tensor.dtype for tensor in saved.values()} == {torch.uint8}
    second = Generators(99)
    second.restore(saved)
    assert draw(first) == draw(second)
    assert {n: t.tolist() for n, t in first.state().items()} == {n: t.tolist() for n, t in second.state().items()}


def test_global_generators_are_neither_read_nor_moved() -> None:
    random.seed(0)
    torch.manual_seed(0)
    before = random.getstate(), torch.get_rng_state()
    draw(Generators(3))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("name", ["python", "stream", "torch.cpu"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"[3, [1, 2], null]", b"[" * 5000, b"null"])
def test_a_damaged_state_is_one_line_and_changes_nothing(name: str, content: bytes) -> None:
    generators = Generators(6)
    state = generators.state()
    state[name] = torch.tensor(list(content), dtype=torch.uint8)
    with pytest.raises(CheckpointError, match=f"generators.{name}") as caught:
        generators.restore(state)
    assert "\n" not in str(caught.value)
    assert draw(generators) == draw(Generators(6))
    with pytest.raises(CheckpointError, match="missing"):
        generators.restore({other: t for other, t in state.items() if other != name})


@pytest.mark.parametrize("seed", [-1, 2**63, True, 1.0])
def test_a_wrong_seed_is_refused(seed: object) -> None:
    with pytest.raises(InputError, match="seed"):
        Generators(seed)  # type: ignore[arg-type]
