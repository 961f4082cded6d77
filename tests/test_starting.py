"""Runs that begin with the weights of another one: what is taken, what is refused, and that it is recorded."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import hecate_core
from hecate_core import checkpoint
from hecate_core.building import Build
from hecate_core.cli.main import run
from hecate_core.comparing import side
from hecate_core.conditions import clashes
from hecate_core.config import load_config
from hecate_core.errors import CheckpointError, CompositionError, ConfigError
from hecate_core.run_folder import load_manifest, load_run

from .tiny_text import tiny, write_text


@pytest.fixture(autouse=True)
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of four steps in `first`, with checkpoints 2 and 4."""
    monkeypatch.chdir(tmp_path)
    write_text(80)
    Path("tiny.toml").write_text(tiny())
    assert built("first") == 0
    return tmp_path / "first"


def built(out: str, *settings: str) -> int:
    words = [word for one in settings for word in ("--set", one)]
    return run(["build", "tiny.toml", "--out", out, *words])


def records(out: str) -> list[dict[str, Any]]:
    lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of the complaint, which is the only one that is no note."""
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_run_begins_with_the_weights_of_another_and_with_nothing_else(first: Path) -> None:
    assert built("second", "start.weights=first", "seed=3") == 0
    model, _ = load_run(first)
    fresh = Build(load_config("second/config.json"))
    fresh.model.load_state_dict(model.state_dict())
    fresh.state = fresh.model.init_state(2)
    assert [fresh.step()["loss"] for _ in range(4)] == [one["loss"] for one in records("second")[:4]]
    assert records("second")[0]["lr"] == records("first")[0]["lr"]  # the schedule begins anew


def test_where_the_weights_lie_does_not_matter_and_which_they_are_is_recorded(first: Path) -> None:
    shutil.copytree(first, "elsewhere")
    assert built("one", "start.weights=first") == 0
    assert built("two", "start.weights=elsewhere/checkpoints/step-4") == 0
    assert built("early", "start.weights=first/checkpoints/step-2") == 0
    content = (first / "checkpoints" / "step-4" / "model.safetensors").read_bytes()
    expected = {"weights": {"sha256": hashlib.sha256(content).hexdigest(), "step": 4}}
    assert load_manifest("one")["start"] == load_manifest("two")["start"] == expected
    assert records("one") == records("two") != records("early")
    assert "start" not in load_manifest("first")


def test_a_comparison_sees_another_start_seed_by_seed(first: Path) -> None:
    assert built("a", "start.weights=first") == 0
    assert built("b", "start.weights=first/checkpoints/step-2") == 0
    assert "start" in clashes([*side("a"), *side("first")])
    assert "sha256" in clashes([*side("a"), *side("b")])["start"]
    assert built("c", "start.weights=first", "seed=0") == 0
    assert "start" not in clashes([*side("a"), *side("c")])
    first.rename("first-1")
    assert built("d", "start.weights=first-{seed}", "seed=1") == 0  # every seed from a run of its own
    assert "start" not in clashes([*side("b"), *side("d")])


def test_a_resumed_run_needs_the_first_no_more(first: Path) -> None:
    Path("tiny.toml").write_text(tiny(decay="constant"))
    assert built("whole", "start.weights=first", "run.steps=6") == 0
    assert built("parts", "start.weights=first") == 0
    shutil.rmtree(first)
    assert run(["build", "--resume", "--out", "parts", "--set", "run.steps=6"]) == 0
    assert records("parts") == records("whole")
    assert load_manifest("parts")["start"] == load_manifest("whole")["start"]


def test_a_replay_from_other_weights_says_so(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert built("second", "start.weights=first") == 0
    assert run(["build", "--replay", "second", "--out", "again"]) == 0
    shutil.rmtree(first)
    assert built("first", "seed=5") == 0
    assert run(["build", "--replay", "second", "--out", "other"]) == 1
    assert "also different: start;" in capsys.readouterr().out


def test_what_does_not_fit_is_refused_in_one_line_and_leaves_nothing(
    first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for settings, words in (
        (("model.width=16",), 'start.weights = "first": embedding.weight is [256, 8]; expected [256, 16], as'),
        (("model.depth=2",), 'start.weights = "first": it has no blocks.1.channel.down.weight; expected a run of'),
        (("model.memory.chunk=4",), None),  # the same weights: fits
        (("model.memory.rule=delta",), "mixer.memory.levels.0.gates.weight is [6, 8]; expected [4, 8]"),
        (("model.channel=none",), "the model has no blocks.0.channel.down.weight"),
        (("start.weights=nowhere",), 'start.weights = "nowhere": nowhere: no run is here'),
        (("start.weights=first/checkpoints",), "no run is here"),
    ):
        code = built("other", "start.weights=first", *settings)
        if words is None:
            assert code == 0
            shutil.rmtree("other")
            continue
        assert code == 4
        assert words in said(capsys)
        assert not Path("other").exists()


def test_a_damaged_checkpoint_is_no_start(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = first / "checkpoints" / "step-4" / "model.safetensors"
    content = bytearray(place.read_bytes())
    content[-1] ^= 1
    place.write_bytes(content)
    assert built("other", "start.weights=first") == 4
    assert "changed since it was written" in said(capsys)


def test_a_run_from_before_the_setting_goes_on(first: Path) -> None:
    folder = first / "checkpoints" / "step-4"
    parts, meta = checkpoint.load(folder)
    del meta["config"]["start"]
    checkpoint.save(folder, parts, meta, replace=True)
    assert run(["build", "--resume", "--out", "first"]) == 0


# --- chains that begin as given MLPs ---------------------------------------------------------------------------------

CHAIN = ("model.channel=cms", "model.cms.grain=16", "start.weights=plain", "start.mlps=plain")


@pytest.fixture
def plain() -> None:
    assert built("plain", "model.depth=2") == 0


def first_loss(*settings: str) -> float:
    """Of a build that has seen nothing of its own."""
    made = Build(load_config("tiny.toml", ["model.depth=2", *settings]))
    made.start()
    return float(made.step()["loss"])


def test_a_chain_of_a_blocks_own_mlp_is_the_run_it_came_from_to_the_bit(plain: None) -> None:
    expected = first_loss("start.weights=plain")
    assert first_loss(*CHAIN, "model.cms.levels=[1]") == expected
    assert first_loss(*CHAIN, "model.cms.levels=[{rate=0.1}]") == expected
    side_by_side = (*CHAIN, "model.cms.levels=[1, 8]", 'model.cms.deployment="independent"')
    assert first_loss(*side_by_side) == expected  # the mean of two equal answers
    assert first_loss(*CHAIN, "model.cms.levels=[1, 8]") != expected


def test_levels_begin_as_the_blocks_that_stack_names(plain: None) -> None:
    made = Build(load_config("tiny.toml", ["model.depth=2", *CHAIN, "start.stack=[[1, 0], [0, 0]]"]))
    made.start()
    source, own = load_run("plain")[0].state_dict(), made.model.state_dict()
    for block, level, given in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 0)):
        for name in ("up.weight", "down.weight"):
            assert torch.equal(
                own[f"blocks.{block}.channel.levels.{level}.{name}"], source[f"blocks.{given}.channel.{name}"]
            )
    assert torch.equal(own["embedding.weight"], source["embedding.weight"])
    assert made.started["mlps"]["stack"] == [[1, 0], [0, 0]]
    assert made.started["mlps"]["sha256"] == made.started["weights"]["sha256"]


def test_from_python_the_same_and_nothing_is_drawn(plain: None) -> None:
    model = hecate_core.compose(load_config("tiny.toml", ["model.depth=2", "model.channel=cms"]))
    torch.manual_seed(7)
    record = hecate_core.start(model, mlps="plain")
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn)
    assert record["mlps"]["stack"] == [[0, 0], [1, 1]]
    given = load_run("plain")[0].state_dict()["blocks.1.channel.up.weight"]
    assert torch.equal(model.state_dict()["blocks.1.channel.levels.1.up.weight"], given)


def test_stacks_that_do_not_fit_are_refused(plain: None) -> None:
    for settings, error, words in (
        (("start.mlps=plain",), CompositionError, "the model has no chain"),
        ((*CHAIN, "start.stack=[[0, 0]]"), CompositionError, "1 rows for 2 blocks with a chain"),
        ((*CHAIN, "start.stack=[[0, 0], [1]]"), CompositionError, r"\[1\] for the 2 levels of block1"),
        ((*CHAIN, "start.stack=[[0, 0], [1, 2]]"), CheckpointError, "block 2 has no MLP"),
        (
            ("model.channel=cms", "model.expansion=2.0", "start.mlps=plain"),
            CheckpointError,
            r"block 0 has up.weight \[42, 8\]; expected \[32, 8\]",
        ),
        (("start.stack=[[0]]",), ConfigError, r"start.stack = \[\[0\]\]; expected the run of these blocks as mlps"),
    ):
        with pytest.raises(error, match=words):
            first_loss(*settings)
