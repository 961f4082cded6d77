"""Rules written by their four knobs, in TOML and in Python: the same rules as the named presets."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from hecate_core import memory
from hecate_core.blueprint import compose
from hecate_core.composed import ComposedRule
from hecate_core.composing import rule_of
from hecate_core.config.load import load_config
from hecate_core.errors import HecateError
from hecate_core.layer import LevelMemory

from .sequences import sequence

TOML = """
[model]
width = 8
heads = 2
depth = 1
vocab = 16

[model.memory.rule]
structure = "matrix"
bias = "l2"
retention = "column"
algorithm = {name = "gd", at = "kept"}
narrow = {write = {high = 0.5, init = 0.25}}
"""

PRESETS: dict[str, dict[str, Any]] = {
    "linear": {"bias": "dot", "retention": "none", "algorithm": {"name": "gd", "rate": 1.0}},
    "hebbian": {"bias": "dot", "retention": "scalar", "algorithm": "gd"},
    "delta": {"bias": "l2", "retention": "scalar", "algorithm": {"name": "gd", "at": "kept"}},
    "kda": {"bias": "l2", "retention": "column", "algorithm": {"name": "gd", "at": "kept"}},
    "dgd": {"bias": "dot", "retention": "scalar", "algorithm": "dgd"},
    "titans": {"bias": "l2", "retention": "scalar", "algorithm": "momentum"},
}


def composed(text: str, folder: Path) -> ComposedRule:
    """The rule in the only block of the model that a TOML text describes."""
    file = folder / "run.toml"
    file.write_text(text)
    model = compose(load_config(file))
    (level,) = (module for module in model.modules() if isinstance(module, LevelMemory))
    return cast(ComposedRule, level._rule)


def test_a_rule_of_knobs_in_toml_is_that_rule(tmp_path: Path) -> None:
    rule = composed(TOML, tmp_path)
    assert isinstance(rule, ComposedRule)
    assert rule.retention.axis == "column"
    assert rule.algorithm.at == "kept"
    assert (rule.gates["write"].high, rule.gates["write"].init) == (0.5, 0.25)
    assert rule.gates["retain"].width == "K"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_knobs_bit_for_bit(name: str) -> None:
    knobs = {"structure": "matrix", **PRESETS[name]}
    inputs, gates = sequence(rule_of(name), 20)
    for strategy in ("sequential", "chunkwise"):
        one, end = memory(**inputs, rule=name, gates=gates, strategy=strategy, chunk_size=8)
        two, same = memory(**inputs, rule=knobs, gates=gates, strategy=strategy, chunk_size=8)
        assert torch.equal(one, two)
        assert all(torch.equal(tensor, same.flat()[path]) for path, tensor in end.flat().items())


WRONG = [
    ('bias = "l2"\n', "", "lacks bias; expected structure, bias, retention, algorithm"),
    ('bias = "l2"', 'bias = "l22"', 'bias "l22" is not installed; did you mean "l2"'),
    ('bias = "l2"', 'bias = "l2"\nfoo = 1', 'has no knob "foo"'),
    ('at = "kept"', 'at = "keptt"', 'at = "keptt"; expected "raw"'),
    ("narrow = {write = {high = 0.5", "narrow = {write = {high = 2.0", "can only be narrowed"),
    ("narrow = {write =", "narrow = {erase =", "erase"),
    ('structure = "matrix"', 'structure = "mlp"', "column decay needs a structure that is one matrix"),
]


@pytest.mark.parametrize(("old", "new", "words"), WRONG)
def test_a_mistake_in_the_knobs_is_one_line(old: str, new: str, words: str, tmp_path: Path) -> None:
    text = TOML.replace(old, new)
    assert text != TOML
    with pytest.raises(HecateError) as caught:
        composed(text, tmp_path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'run.toml'}:8: model.memory.rule: ")
    assert "\n" not in str(caught.value)
