"""A run that stops being finite: block, level, quantity, and a bundle that repeats the step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hecate_core import building, files
from hecate_core.building import Build, build
from hecate_core.checkpoint import load
from hecate_core.cli.main import run
from hecate_core.config import Config, make_config
from hecate_core.corpus import Corpus, open_corpus
from hecate_core.divergence import Place, Read, first_not_finite, reproduce
from hecate_core.errors import CheckpointError, DivergedError
from hecate_core.failing_disk import FailingDisk
from hecate_core.run_folder import RunFolder

CONFIG: dict[str, Any] = {
    "data": {"batch": 2, "length": 8},
    "model": {
        "width": 8, "depth": 2, "heads": 2,
        "attention": {"window": 4, "persistent": 1},
        "memory": {"rule": "titans", "chunk": 4, "levels": [{}, {"write_period": 2}]},
    },
    "run": {"steps": 6, "eval_interval": 0, "checkpoint_interval": 2},
}  # fmt: skip


def config(**run: Any) -> Config:
    return make_config({**CONFIG, "run": {**CONFIG["run"], **run}})


@pytest.fixture(autouse=True)
def corpus(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    whole = open_corpus()
    small = Corpus("small", whole.train[:4000], (0,), whole.heldout[:2], "0" * 64)
    monkeypatch.setattr(building, "open_corpus", lambda _: small)
    return small


def read_of(made: Build) -> Read:
    chunk = made.stream.next_chunk()
    return Read(chunk.input, chunk.target, made.state)


def test_a_healthy_step_has_no_place() -> None:
    made = Build(config())
    made.step()
    assert first_not_finite(made.model, read_of(made)) is None


def test_a_parameter_is_named_with_its_block_and_level() -> None:
    made = Build(config())
    name = next(name for name, _ in made.model.named_parameters() if name.startswith("blocks.1.mixer.memory.levels.1."))
    with torch.no_grad():
        made.model.get_parameter(name).view(-1)[0] = float("inf")
    assert first_not_finite(made.model, read_of(made)) == Place(1, 1, f"parameter {name}")


def test_a_carried_memory_is_named_with_its_block_and_level() -> None:
    made = Build(config())
    read = read_of(made)
    path = "block1.memory.level0.rule.memory.matrix"
    spoilt = read.state.put(path, torch.full_like(read.state.at(path), float("nan")))
    found = first_not_finite(made.model, Read(read.ids, read.targets, spoilt))
    assert found == Place(1, 0, f"state {path} before the chunk")
    assert str(found) == f"block 1, level 0, state {path} before the chunk"


def test_what_goes_wrong_inside_the_forward_is_named_before_what_it_spoils() -> None:
    """The second level's front overflows: its output is named, not the logits at the end."""
    made = Build(config())
    level: Any = made.model.get_submodule("blocks.0.mixer.memory.levels.1")
    level.gates.register_forward_hook(lambda _, __, gates: gates.map(lambda one: one * float("nan")))
    found = first_not_finite(made.model, read_of(made))
    assert found is not None
    assert (found.block, found.level) == (0, 1)
    assert found.quantity.startswith("output retain of blocks.0.mixer.memory.levels.1.gates")

    made = Build(config())
    head = made.model.get_submodule("blocks.1.channel")
    head.register_forward_hook(lambda _, __, y: y * float("inf"))
    assert first_not_finite(made.model, read_of(made)) == Place(1, None, "output of blocks.1.channel")


def test_the_memory_of_a_level_is_named_before_its_answer() -> None:
    made = Build(config())
    level: Any = made.model.get_submodule("blocks.0.mixer.memory.levels.0")
    whole = level._strategy

    class Spoils:
        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

        def __call__(self, *given: Any) -> Any:
            y, state = whole(*given)
            return y * float("nan"), state.map(lambda one: one * float("nan"))

    level._strategy = Spoils()
    found = first_not_finite(made.model, read_of(made))
    assert found == Place(0, 0, "state rule.memory.matrix of blocks.0.mixer.memory.levels.0")


def breaks_at(step: int) -> Any:
    """A build whose embedding of one byte turns infinite before a step."""
    ordinary = Build.step

    def stepped(self: Build) -> Any:
        if self.steps_done == step:
            with torch.no_grad():
                self.model.embedding.weight[:, 0] = float("inf")  # hecate: allow CS-47 -- the planted divergence
        return ordinary(self)

    return stepped


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_diverges_leaves_a_bundle_that_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    monkeypatch.setattr(Build, "step", breaks_at(3))
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DivergedError, match=r"step 3: loss is nan; first not finite: parameter embedding\.weight; .*"):
        build(config(accumulate=accumulate), folder)
    bundle = tmp_path / "run" / "diverged-3"
    assert str(reproduce(bundle)) == "parameter embedding.weight"
    parts, meta = load(bundle)
    assert meta["diverged"].startswith("step 3: loss is nan")
    assert meta["config"]["run"]["steps"] == 6
    assert set(parts["batch"]) == {"ids", "targets"}
    assert meta["positions"]["block0"] == 3 * 8 * accumulate, "the memory before the chunk"
    assert folder.checkpoints.steps() == [2], "the checkpoint before is there, the spoilt step is none"
    steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert steps == [0, 1, 2]
    healed = {name: torch.nan_to_num(one, posinf=0.1) for name, one in parts["model"].items()}
    made = Build(config(accumulate=accumulate))
    made.model.load_state_dict(healed)
    read = Read(parts["batch"]["ids"], parts["batch"]["targets"], made.state)
    assert first_not_finite(made.model, read) is None, "the batch of the bundle is the one of the step"


def test_a_gradient_that_is_not_finite_stops_the_run_with_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = Build._forward_backward

    def spoilt(self: Build, chunk: Any) -> Any:
        loss, grads = ordinary(self, chunk)
        name = next(name for name in grads if ".levels.1." in name)
        return loss, {**grads, name: grads[name] * float("nan")}

    monkeypatch.setattr(Build, "_forward_backward", spoilt)
    with pytest.raises(DivergedError, match=r"gradient of blocks\.0\S+levels\.1\S+ \(level 1\) .*diverged-0$"):
        build(config(), RunFolder(tmp_path / "run"))
    assert reproduce(tmp_path / "run" / "diverged-0") is None


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_of_accumulated_chunks_the_bundle_has_the_one_that_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ordinary, seen = Build._forward_backward, []

    def spoilt(self: Build, chunk: Any) -> Any:
        loss, grads = ordinary(self, chunk)
        seen.append(chunk.input)
        if len(seen) != 5:
            return loss, grads
        return (float("nan"), grads) if what == "loss" else (loss, {name: one / 0 for name, one in grads.items()})

    monkeypatch.setattr(Build, "_forward_backward", spoilt)
    with pytest.raises(DivergedError, match=r"step 1: .*diverged-1$"):
        build(config(accumulate=3), RunFolder(tmp_path / "run"))
    parts, meta = load(tmp_path / "run" / "diverged-1")
    assert len(seen) == 5
    assert torch.equal(parts["batch"]["ids"], seen[4])
    assert meta["positions"]["block0"] == 4 * 8, "the memory before the second chunk of the second step"


def test_a_bundle_is_run_again_in_the_precision_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output of 1e5 is a number in float32, infinite in float16."""
    ordinary = Build.step

    def stepped(self: Build) -> Any:
        with torch.no_grad():
            for one in self.model.blocks[0].channel.parameters():
                one.fill_(100.0)  # hecate: allow CS-47 -- the planted divergence
        return ordinary(self)

    monkeypatch.setattr(Build, "step", stepped)
    with pytest.raises(DivergedError, match=r"first not finite: block 0, output of blocks\.0\.channel"):
        build(config(autocast="float16"), RunFolder(tmp_path / "run"))
    assert "block 0, output of blocks.0.channel" in str(reproduce(tmp_path / "run" / "diverged-0"))


@pytest.mark.parametrize("interval", [0, 2])
def test_a_score_that_is_not_finite_ends_the_run_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: int
) -> None:
    monkeypatch.setattr(Build, "evaluate", lambda self: {"bits_per_byte": float("nan")})
    folder, last = RunFolder(tmp_path / "run"), interval or 6
    with pytest.raises(DivergedError, match=rf"step {last}: bits_per_byte is nan on held-out contexts, .*/run$"):
        build(config(eval_interval=interval, checkpoint_interval=0), folder)
    assert folder.checkpoints.steps() == [last]
    steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert steps == list(range(last))


def test_the_command_line_prints_where_the_bundle_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Build, "step", breaks_at(1))
    (tmp_path / "c.toml").write_text("[data]\nbatch = 2\nlength = 8\n[model]\nwidth = 8\ndepth = 1\n[run]\nsteps = 3\n")
    assert run(["build", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run")]) == 5
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("step 1: loss is nan; first not finite: parameter embedding.weight")
    assert last.endswith(str(tmp_path / "run" / "diverged-1"))


def test_a_disk_without_room_for_the_bundle_hides_no_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = breaks_at(1)

    def stepped(self: Build) -> Any:
        if self.steps_done == 1:
            files.disk = FailingDisk(1, stays=True)
        return ordinary(self)

    monkeypatch.setattr(Build, "step", stepped)
    monkeypatch.setattr(files, "disk", files.disk)
    with pytest.raises(DivergedError, match=r"loss is nan.*no bundle: .*No space left"):
        build(config(), RunFolder(tmp_path / "run"))


def test_a_checkpoint_is_no_bundle(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    build(config(steps=1), folder)
    with pytest.raises(CheckpointError, match="without a batch"):
        reproduce(tmp_path / "run" / "checkpoints" / "step-1")


def test_hooks_are_gone_afterwards() -> None:
    made = Build(config())
    first_not_finite(made.model, read_of(made))
    assert not any(module._forward_hooks for module in made.model.modules() if isinstance(module, nn.Module))
