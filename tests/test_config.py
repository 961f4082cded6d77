"""The schema: defaults, ranges, lines of mistakes, overrides, the way to JSON and back."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from hecate_core.config import Config, Level, Reference, config_digest, config_json, config_plain
from hecate_core.config import load_config as load
from hecate_core.config import make_config as make
from hecate_core.config.lines import key_lines
from hecate_core.errors import ConfigError
from hecate_core.levels import LevelSpec

from .config_texts import complaint, written


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(written(tmp_path, "")) == load() == Config()


def test_a_file_is_read_as_written(tmp_path: Path) -> None:
    config = load(
        written(
            tmp_path,
            """
            seed = 3
            optimizer = {name = "sgd", lr = 1}
            [model]
            width = 96
            attention.rotary = false
            [model.memory]
            rule.momentum = 0.5
            levels = [1, {write_period = 4, reduce = "mean"}]
            grain = "none"
            [run]
            clip = 2
            autocast = "none"
            """,
        )
    )
    assert config.model.memory is not None
    assert (config.seed, config.model.width, config.model.attention.rotary) == (3, 96, False)
    assert config.optimizer == Reference("sgd", {"lr": 1})
    assert config.model.memory.rule == Reference("titans", {"momentum": 0.5})
    assert config.model.memory.levels == (Level(), Level(write_period=4, reduce="mean"))
    assert config.model.memory.grain is None
    assert isinstance(config.run.clip, float)


def test_memory_and_other_optional_settings_can_be_none() -> None:
    assert load(None, ["model.memory=none", "run.clip=none"]).model.memory is None
    assert make({"model": {"memory": None}}).model.memory is None
    assert load(None, ["model.memory=none", "model.memory.chunk=8"]).model.memory is not None


def test_a_level_of_the_config_is_a_level_of_the_model() -> None:
    config = {field.name: field.default for field in attrs.fields(Level)}
    assert config == {field.name: field.default for field in attrs.fields(LevelSpec)}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("widht = 3", 'c.toml:1: unknown key "widht"; known: data, model, optimizer, plugins, run, schedule, seed'),
        ("[model]\nwidht = 3", 'c.toml:2: unknown key "model.widht"; did you mean "width"?'),
        ("\n[modle]\nwidth = 3", 'c.toml:2: unknown key "modle"; did you mean "model"?'),
        ("model = 3", "c.toml:1: model = 3; expected a table"),
        ("[model]\nmemory = 3", 'c.toml:2: model.memory = 3; expected a table or "none"'),
        ("[model]\nwidth = 6.5", "c.toml:2: model.width = 6.5; expected an integer"),
        ("[model]\nwidth = true", "c.toml:2: model.width = true; expected an integer"),
        ("[model.memory]\nwidths = {K = 0}", "c.toml:2: model.memory.widths.K = 0; expected an integer >= 1"),
        ("[model]\nwidth = 0", "c.toml:2: model.width = 0; expected an integer >= 1"),
        ("seed = 99999999999999999999", "c.toml:1: seed = 99999999999999999999; expected an integer"),
        ("[model]\nexpansion = nan", "c.toml:2: model.expansion = nan; expected a finite number"),
        ("[run]\nclip = inf", 'c.toml:2: run.clip = inf; expected a finite number or "none"'),
        ("[run]\nclip = -1", "c.toml:2: run.clip = -1.0; expected a number > 0"),
        ("[schedule]\nfloor = 1.5", "c.toml:2: schedule.floor = 1.5; expected a number between 0 and 1"),
        ("[model]\nnorm = 'rsm'", 'c.toml:2: model.norm = "rsm"; expected one of "rms", "layer", "none"'),
        ("[model]\nheads = 3", "c.toml:2: model.heads = 3; expected a divisor of width = 64"),
        ("[model]\nwidth = 10\nheads = 4", "c.toml:3: model.heads = 4; expected a divisor of width = 10"),
        (
            "[model.memory]\nlevels = [\n  1,  # fast\n  {write_period = 0},\n]",
            "c.toml:4: model.memory.levels[1].write_period = 0; expected an integer >= 1",
        ),
        (
            "[[model.memory.levels]]\n[[model.memory.levels]]\n\nwrite_perid = 1",
            'c.toml:4: unknown key "model.memory.levels[1].write_perid"; did you mean "write_period"?',
        ),
        ("model.memory.levels = []", "c.toml:1: model.memory.levels = []; expected at least one"),
        ("model.memory.levels = 4", "c.toml:1: model.memory.levels = 4; expected a list of tables"),
        (
            "[[model.memory.levels]]\n[model.memory.levels.gates]\nwrite.high = 'x'",
            'c.toml:3: model.memory.levels[0].gates.write.high = "x"; expected a finite number',
        ),
        ("model.memory.levels = ['x']", 'c.toml:1: model.memory.levels[0] = "x"; expected a table'),
        ("model.memory.conv_streams = ['q', 'q']", "c.toml:1: model.memory.conv_streams = ['q', 'q']; expected each"),
        ("model.memory.conv_streams = ['q',\n 'x']", 'c.toml:2: model.memory.conv_streams[1] = "x"; expected one of'),
        ("optimizer = 3", "c.toml:1: optimizer = 3; expected the name of a component or a table with name = ..."),
        ("[optimizer]\nname = 3", "c.toml:2: optimizer.name = 3; expected the name of a component"),
        ("[optimizer]\nlr = inf", "c.toml:2: optimizer.lr = inf; expected a finite number"),
        ("[optimizer]\nday = 1979-05-27", "c.toml:2: optimizer.day = datetime.date(1979, 5, 27); expected a string, a"),
        ("[data]\npath = ''", 'c.toml:2: data.path = ""; expected at least one'),
        ("[model\nwidth = 3", "c.toml:1: Expected ']' at the end of a table declaration at column 7; expected TOML"),
        ("seed = 1\nseed = 2", "c.toml:2: Cannot overwrite a value at the end of the file; expected TOML"),
        ("seed = ", "c.toml:1: Invalid value at the end of the file; expected TOML"),
        ("x = " + "[" * 3000, "c.toml:1: nested too deeply"),
        ("'a\\nb' = 1\n\"\\n\" = 2", 'c.toml:1: unknown key "a\\nb"; known: data'),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, line: str, tmp_path: Path) -> None:
    assert complaint(written(tmp_path, text)).startswith(line)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    assert complaint(tmp_path / "none.toml") == "none.toml: No such file or directory; expected a config file"
    assert "Is a directory" in complaint(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"seed = 1\n# caf\xe9\n")
    assert complaint(tmp_path / "latin.toml") == "latin.toml:2: not UTF-8; expected a text file"
    (tmp_path / "big.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    assert "more than 1048576 bytes" in complaint(tmp_path / "big.toml")
    assert complaint(written(tmp_path, "\0")).startswith("c.toml:1: Invalid")
    assert complaint(written(tmp_path, "{'a': 1}", "c.json")).startswith("c.json:1: Expecting property name")
    assert complaint(written(tmp_path, "[1]", "c.json")) == "c.json:1: no table; expected a resolved config"


def test_the_first_mistake_of_a_file_is_named(tmp_path: Path) -> None:
    text = "[run]\nsteps = -1\nsteps_ = 1\n[model]\nwidht = 1\n"
    assert complaint(written(tmp_path, text)).startswith("c.toml:3:")  # ranges are looked at when the keys are right


def test_overrides_take_toml_values_and_bare_strings() -> None:
    config = load(
        None,
        [
            "model.width=128",
            "run.device=cuda:0",
            'data.path="a b"',
            "model.memory.levels=[1, 4]",
            "model.memory.levels[1].write_period=8",
            "model.memory.rule.momentum=0.25",
            "optimizer={name='sgd', lr=0.5}",
            "optimizer.lr=0.75",
            "run.wall=false",
            "model.memory.conv_streams=['q']",
            "model.width=256",
        ],
    )
    assert config.model.memory is not None
    assert (config.model.width, config.run.device, config.data.path, config.run.wall) == (256, "cuda:0", "a b", False)
    assert [level.write_period for level in config.model.memory.levels] == [1, 8]
    assert config.model.memory.rule == Reference("titans", {"momentum": 0.25})
    assert config.optimizer == Reference("sgd", {"lr": 0.75})


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.width", "--set model.width: no value; expected KEY=VALUE, as in model.width=128"),
        ("=3", '--set =3: "" is no key; expected names joined by dots'),
        ("a b=3", '--set a b=3: "a b" is no key'),
        ("a=1\nb=3", 'unknown key "a"'),
        ("a\nb=3", "is no key"),
        ("model.widht=3", '--set model.widht: unknown key "model.widht"; did you mean "width"?'),
        ("model.width=0", "--set model.width: model.width = 0; expected an integer >= 1"),
        ("model.width=wide", '--set model.width: model.width = "wide"; expected an integer'),
        ("model.width.x=1", "--set model.width.x: model.width = {'x': 1}; expected an integer"),
        ("seed[0]=1", "--set seed.0: the config has no list seed; expected the whole list first"),
        ("model.memory.levels[3].write_period=1", "--set model.memory.levels.3: the list has 2 items, numbered from 0"),
        (
            "model.cms.levels[1].rate=0.1",
            "--set model.cms.levels.1: the config has no list model.cms.levels; expected the whole list first, as in "
            "--set 'model.cms.levels=[{}, {}]'",
        ),
        ("model.width[0]=1", "--set model.width.0: model.width is 64, no list; expected a key without [0]"),
        ("model.memory.levels[3]=1", "--set model.memory.levels.3: the list has 2 items, numbered from 0"),
        ("model.memory.levels.fast=1", "--set model.memory.levels.fast: the list has 2 items, numbered from 0"),
    ],
)
def test_a_wrong_override_is_one_line(override: str, line: str, tmp_path: Path) -> None:
    path = written(tmp_path, "[model]\nwidth = 64\n[model.memory]\nlevels = [1, 2]\n")
    assert line in complaint(path, (override,))


def test_a_resolved_config_survives_json_and_keeps_its_digest(tmp_path: Path) -> None:
    config = load(None, ["model.memory.levels=[1,4]", "optimizer.betas=[0.9, 0.95]", "run.clip=none", "seed=7"])
    again = load(written(tmp_path, config_json(config), "config.json"))
    assert again == config
    assert config_digest(again) == config_digest(config)
    assert config_digest(make(config_plain(config))) == config_digest(config)
    assert config_digest(load(None, ["seed=8"])) != config_digest(load())
    one, two = ["optimizer={lr=1.0, eps=0.5}"], ["optimizer={eps=0.5, lr=1.0}"]
    assert config_digest(load(None, one)) == config_digest(load(None, two))
    assert json.loads(config_json(config))["run"]["clip"] is None


def test_plain_values_from_python_are_checked_and_left_alone() -> None:
    table: dict[str, Any] = {"model": {"memory": {"rule": "titans"}}}
    make(table, ["model.memory.rule.momentum=0.5"])
    assert table == {"model": {"memory": {"rule": "titans"}}}
    with pytest.raises(ConfigError, match=r"^config: model.width = 0; expected"):
        make({"model": {"width": 0}})


def test_a_reference_knows_where_it_was_written(tmp_path: Path) -> None:
    path = written(tmp_path, '[model]\ncomposition = "lmm"\n[model.memory.rule]\nname = "delta"\n')
    config = load(path, ["optimizer=sgd"])
    assert config.model.memory is not None
    assert config.model.composition.place == f"{path}:2: model.composition"
    assert config.model.memory.rule.place == f"{path}:3: model.memory.rule"
    assert config.optimizer.place == "--set optimizer: optimizer"


def test_a_rule_may_be_written_by_its_knobs() -> None:
    knobs = {"structure": {"name": "mlp", "layers": 2}, "bias": "l2", "retention": "scalar", "algorithm": "gd"}
    config = make({"model": {"memory": {"rule": knobs}}})
    assert config.model.memory is not None
    assert config.model.memory.rule == Reference("", knobs)
    assert make(config_plain(config)) == config
    with pytest.raises(ConfigError, match=r'^config: model.composition.name = ""; expected'):
        make({"model": {"composition": {"name": ""}}})


def test_the_documented_config_is_the_defaults() -> None:
    text = (Path(__file__).parents[1] / "docs" / "config.md").read_text()
    (block,) = re.findall(r"<!-- every setting -->\n```toml\n(.*?)```", text, re.DOTALL)
    documented = tomllib.loads(block)
    assert make(documented) == Config()
    assert _keys(documented) == _keys(config_plain(Config()))


def _keys(value: Any) -> Any:
    """The names of all settings, in order, values left out; a component counts as one value."""
    if isinstance(value, dict) and "name" not in value:
        return [(key, _keys(one)) for key, one in value.items()]
    return [_keys(one) for one in value] if isinstance(value, list) and value and isinstance(value[0], dict) else None


def test_key_lines_of_every_form() -> None:
    text = '''
# a comment with = and [brackets]
a.b."c.d" = """two
lines = 1 ""  # no comment"""
'e' = { f = 1, "g" = [ 1,
  { h = "]" } ], }
[x . "y"]
z = 1979-05-27 07:32:00   # date
[[t]]
k = \'\'\'raw \\\'\'\'
[[t.u]]
[[t.u]]
v = "\\"" # "
[t.w]
o = [[1],
 [2]]
[[t]]
k = 2.5e3
'''
    lines = key_lines(text)
    expected = {
        ("a",): 3,
        ("a", "b", "c.d"): 3,
        ("e",): 5,
        ("e", "f"): 5,
        ("e", "g", 1, "h"): 6,
        ("x", "y"): 7,
        ("x", "y", "z"): 8,
        ("t", 0): 9,
        ("t", 0, "k"): 10,
        ("t", 0, "u", 0): 11,
        ("t", 0, "u", 1): 12,
        ("t", 0, "u", 1, "v"): 13,
        ("t", 0, "w", "o", 1, 0): 16,
        ("t", 1, "k"): 18,
    }
    assert {path: lines.get(path) for path in expected} == expected
