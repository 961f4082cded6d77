"""The schema: defaults, ranges, lines of mistakes, overrides, the way to JSON and back."""

import json
import random
import re
import string
import tomllib
from collections.abc import Iterator
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


def written(tmp_path: Path, text: str, name: str = "c.toml") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def complaint(path: Path, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as raised:
        load(path, overrides)
    text = str(raised.value)
    assert "\n" not in text
    return text.removeprefix(f"{path.parent}/")


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
        ("seed[0]=1", "--set seed[0]: seed = {'0': 1}; expected an integer"),
        ("model.memory.levels[3].write_period=1", "--set model.memory.levels.3: the list has 2 items, numbered from 0"),
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


# A thousand malformed configs: a valid one written in a random way, then one thing is made wrong.

INTEGERS = {
    ("seed",): 0,
    ("data", "batch"): 1,
    ("data", "length"): 1,
    ("model", "depth"): 1,
    ("model", "vocab"): 1,
    ("model", "attention", "window"): 1,
    ("model", "attention", "persistent"): 0,
    ("model", "memory", "chunk"): 1,
    ("model", "memory", "conv"): 0,
    ("schedule", "warmup"): 0,
    ("run", "steps"): 0,
    ("run", "checkpoint_interval"): 0,
    ("run", "keep"): 1,
    ("run", "threads"): 1,
}
OTHERS: dict[tuple[str, ...], str] = {
    ("model", "residual"): "true",
    ("model", "norm"): '"layer"',
    ("model", "expansion"): "2.5",
    ("model", "memory", "rule"): '"delta"',
    ("model", "memory", "aggregate"): "'sum'",
    ("schedule", "floor"): "0.25",
    ("run", "clip"): "1.5",
    ("run", "device"): '"cpu"',
    ("run", "wall"): "false",
}
TABLES = [(), ("data",), ("model",), ("model", "attention"), ("model", "memory"), ("schedule",), ("run",)]


class Document:
    """Settings written as TOML: by headers, dotted keys or inline tables, with comments between."""

    def __init__(self, settings: dict[tuple[str, ...], str], random_: random.Random) -> None:
        self.lines: list[str] = []
        self.line_of: dict[tuple[str, ...], int] = {}
        dotted = {table for table in TABLES if table and random_.random() < 0.3}
        inline = {("schedule",), ("data",)} - dotted if random_.random() < 0.5 else set()
        root = [path for path in settings if len(path) == 1 or path[:-1] in dotted or path[:-1] in inline]
        for path in [path for path in root if path[:-1] not in inline]:
            self.put(path, f"{'.'.join(path)} = {settings[path]}", random_)
        for flat in sorted(inline):
            inside = [path for path in settings if path[:-1] == flat]
            pairs = ", ".join(f"{path[-1]} = {settings[path]}" for path in inside)
            self.put((*flat, ""), f"{flat[0]} = {{ {pairs} }}", random_)
            self.line_of |= dict.fromkeys(inside, len(self.lines))
        for table in TABLES[1:]:
            inside = [path for path in settings if path[:-1] == table and path not in root]
            if inside and not any(other[: len(table)] == table and other in dotted for other in TABLES):
                self.put((*table, ""), f"[{'.'.join(table)}]", random_)
            elif inside:
                continue
            for path in inside:
                self.put(path, f"{path[-1]} = {settings[path]}", random_)
        self.text = "\n".join(self.lines) + "\n"

    def put(self, path: tuple[str, ...], line: str, random_: random.Random) -> None:
        if random_.random() < 0.3:
            self.lines += random_.choice([[""], ["# seed = 3"], ["  # [model]", ""]])
        self.lines.append(line + random_.choice(["", "  # = 1"]))
        self.line_of[path] = len(self.lines)


def misspelt(word: str, random_: random.Random) -> str:
    """The word after one or two edits: a letter dropped, doubled, replaced, or two swapped."""
    letters = list(word)
    for _ in range(random_.choice([1, 2])):
        at = random_.randrange(len(letters))
        edit = random_.choice(["drop", "add", "replace", "swap"])
        if edit == "drop" and len(letters) > 2:
            del letters[at]
        elif edit == "swap" and at:
            letters[at - 1], letters[at] = letters[at], letters[at - 1]
        elif edit == "add":
            letters.insert(at, random_.choice(string.ascii_lowercase))
        else:
            letters[at] = random_.choice(string.ascii_lowercase)
    return "".join(letters)


@attrs.frozen
class Case:
    """A document with one mistake: where it was written, what should have stood there."""

    kind: str
    text: str
    path: tuple[str, ...] = ()  # empty: somewhere
    line: int = 0
    meant: str = ""


def malformed(seed: int) -> Iterator[Case]:
    """At most one case for a seed; an edit that happens to be right makes none."""
    random_ = random.Random(seed)
    settings = {path: str(low + random_.randrange(1, 50)) for path, low in INTEGERS.items()} | OTHERS
    settings = {path: value for path, value in settings.items() if random_.random() < 0.8}
    kind = random_.choice(["key", "key", "type", "range", "infinite", "syntax"])
    path: tuple[str, ...] = random_.choice(sorted(set(settings) & set(INTEGERS) if kind == "range" else settings))
    written_path: tuple[str, ...] = path
    if kind == "key":
        written_path = (*path[:-1], misspelt(path[-1], random_))
        siblings = {one[-1] for one in [*INTEGERS, *OTHERS] if one[:-1] == path[:-1]}
        if written_path[-1] in siblings:
            return
        settings = {written_path if one == path else one: value for one, value in settings.items()}
    elif kind == "type":
        settings[path] = random_.choice(["[]", "[1, 2]", "1979-05-27", "07:32:00"])
    elif kind == "range":
        settings[path] = str(INTEGERS[path] - 1 - random_.randrange(3))
    elif kind == "infinite":
        settings[path] = random_.choice(["nan", "-inf", "1e400"])
    document = Document(settings, random_)
    text = document.text
    if kind == "syntax":
        tokens = [match.start() for match in re.finditer(r"[=\"'\[{]", text)]
        at = random_.choice(tokens)
        text = text[:at] + random_.choice(["", "]]", "=", '"', "\n", "\\"]) + text[at + 1 :]
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            yield Case(kind, text)
        return
    if written_path in document.line_of:
        yield Case(kind, text, written_path, document.line_of[written_path], path[-1])


def test_a_thousand_malformed_configs_are_one_line_each(tmp_path: Path) -> None:
    seen: dict[str, list[Case]] = {}
    hinted: list[bool] = []
    right: list[bool] = []
    for case in (case for seed in range(1400) for case in malformed(seed)):
        message = complaint(written(tmp_path, case.text))
        assert re.match(r"c\.toml:\d+: .*; (expected|did you mean|known)", message), (message, case)
        if case.path:
            assert message.startswith(f"c.toml:{case.line}: "), (message, case)
            assert ".".join(case.path) in message
        if case.kind == "key":
            hinted.append("did you mean" in message)
            right.append(f'did you mean "{case.meant}"?' in message)
        seen.setdefault(case.kind, []).append(case)
    assert sum(map(len, seen.values())) >= 1000
    assert min(map(len, seen.values())) >= 100, {kind: len(cases) for kind, cases in seen.items()}
    assert sum(hinted) / len(hinted) >= 0.95
    assert sum(right) / len(right) >= 0.95
