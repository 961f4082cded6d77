"""The HOPE block: which memory it reads, what it equals, and whole models of it from TOML files."""

from importlib import resources
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from hecate_core.blueprint import compose
from hecate_core.building import Build
from hecate_core.checking.architecture import ARCHITECTURE, ModelCase
from hecate_core.checking.cells import tiny, tiny_corpus
from hecate_core.checking.dry_run import DRY_RUN, DryRun
from hecate_core.config import Config, load_config
from hecate_core.errors import HecateError
from hecate_core.mixer import Mixer
from hecate_core.registry import registry
from hecate_core.shapes import Tensor
from hecate_core.testing.compositions import check_composition
from hecate_core.testing.members import WIDTH, Cell, tiny_mixer

EXAMPLES = Path(str(resources.files("hecate_hope"))) / "examples"
RULE = "self-modifying-titans"
CLOSE = 1e-12  # float64: the same sums in another order


def mixer_of(composition: Any, rule: str = RULE) -> Mixer:
    return tiny_mixer(Cell(composition, rule, "frozen"), memory={"chunk": 3})


def sentence(count: int = 11) -> Tensor:
    return torch.randn(2, count, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def read(mixer: Mixer, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = mixer(x, mixer.init_state(2))[0]
    return y


@pytest.mark.parametrize("rule", [RULE, "titans"])
def test_read_after_the_write_it_is_the_memory_alone_to_the_bit(rule: str) -> None:
    x = sentence()
    assert torch.equal(read(mixer_of("hope", rule), x), read(mixer_of("lmm", rule), x))


@pytest.mark.parametrize("segment", [1, 3])
def test_read_before_the_write_it_is_the_memory_of_the_segments_start(segment: int) -> None:
    """Against one call of the memory per token: what was there before the segment, asked by the reading front."""
    mixer, x = mixer_of({"name": "hope", "read": "before", "segment": segment}), sentence()
    memory: Any = mixer.memory
    state = start = mixer.init_state(2).memory
    reads = []
    with torch.no_grad():
        for t, token in enumerate(x.split(1, 1)):
            if t % segment == 0:
                start = state
            answer, start = memory.recall(token, start)
            reads.append(answer)
            _, asked = memory.recall(token, state)
            _, state = memory.absorb(token, asked)
        gate: Any = mixer.join.gate
        expected = mixer.project(gate(torch.cat(reads, 1), x))
    torch.testing.assert_close(read(mixer, x), expected, atol=CLOSE, rtol=1e-9)
    with torch.no_grad():
        state, parts = mixer.init_state(2), []
        for piece in x.split([2, 5, 4], 1):  # calls that begin inside a segment
            y, state = mixer(piece, state)
            parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=CLOSE, rtol=1e-9)
    other = x.clone()
    other[:, 5:] += 1.0
    later = read(mixer, other)
    assert torch.equal(later[:, :5], read(mixer, x)[:, :5])
    assert not torch.equal(later[:, 5:], read(mixer, x)[:, 5:])
    assert not torch.allclose(read(mixer_of("hope"), x), expected)


@pytest.mark.soak
@pytest.mark.parametrize("segment", [1, 3])
def test_the_kit_holds_for_reading_before_the_write(segment: int) -> None:
    found = check_composition({"name": "hope", "read": "before", "segment": segment}, rule=RULE)
    assert [one.line for one in found if not one.ok] == []


def test_a_block_that_reads_after_the_write_carries_nothing_and_takes_documents() -> None:
    mixer, x = mixer_of("hope"), sentence()
    assert list(mixer.init_state(2)) == ["memory"]
    assert list(mixer_of({"name": "hope", "read": "before"}).init_state(2)) == ["memory", "start"]
    one = tiny_mixer(Cell("hope", RULE, "sequential"), memory={"conv": 2})
    starts = torch.zeros(2, 11, dtype=torch.bool)
    starts[:, 4] = True
    with torch.no_grad():
        y, _ = one(x, one.init_state(2), None, starts)
    torch.testing.assert_close(y[:, 4:], read(one, x[:, 4:]), atol=CLOSE, rtol=1e-9)


@pytest.mark.parametrize("options", [{"read": "never"}, {"segment": 0}])
def test_what_cannot_be_is_one_line(options: dict[str, Any]) -> None:
    with pytest.raises(HecateError, match=r"hope.*: (read|segment) = .*; expected"):
        registry().create("composition", {"name": "hope", **options}, width=4)


def example(name: str) -> Config:
    return load_config(EXAMPLES / f"{name}.toml")


@pytest.mark.parametrize("name", ["hope", "hope-attention"])
def test_an_example_is_a_whole_model_that_passes_every_check(name: str) -> None:
    config = tiny(example(name))
    for suite, case in ((ARCHITECTURE, ModelCase), (DRY_RUN, DryRun)):
        found = suite.run(name, lambda case=case: case(config))  # type: ignore[misc]
        assert [one.line for one in found if not one.ok] == []


def test_the_examples_compose_at_their_own_size() -> None:
    hope, attention = (compose(example(name)) for name in ("hope", "hope-attention"))
    assert [type(module).__name__ for module in hope.modules()].count("ChainMLP") == 6
    assert [type(module).__name__ for module in attention.modules()].count("LevelMemory") == 0
    assert [type(module).__name__ for module in attention.modules()].count("ChainMLP") == 6


def test_a_hope_build_learns_a_text_and_resumes_in_the_middle_of_a_period() -> None:
    config = attrs.evolve(
        tiny(example("hope")), optimizer=attrs.evolve(example("hope").optimizer, options={"lr": 1e-2})
    )
    one, two = Build(config, tiny_corpus(17)), Build(config, tiny_corpus(17))
    losses = [one.step()["loss"] for _ in range(5)]
    two.restore(*one.parts())
    assert float(one.state.block0.channel.level1.pending.up.abs().max()) > 0.0
    assert [one.step()["loss"] for _ in range(3)] == [two.step()["loss"] for _ in range(3)]
    assert all(loss < 20.0 for loss in losses)
