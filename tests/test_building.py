"""The build loop: resume and replay bit for bit, interrupts, divergence, evaluation, bad folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hecate_core import building
from hecate_core.building import Build, build
from hecate_core.config import Config, make_config
from hecate_core.corpus import Corpus, open_corpus
from hecate_core.errors import CheckpointError, DivergedError, InputError
from hecate_core.evaluation import bits_per_byte
from hecate_core.run_folder import RunFolder, load_run

STOPS, AFTER = 10, 50


def tiny(**changes: Any) -> Config:
    """Two levels with different clocks, carried memory, fresh contexts now and then."""
    table: dict[str, Any] = {
        "seed": 3,
        "data": {"batch": 2, "length": 12, "context": 36},
        "model": {
            "width": 8, "depth": 1, "heads": 2,
            "attention": {"window": 4, "persistent": 1},
            "memory": {
                "rule": "titans", "chunk": 4,
                "levels": [
                    {"write_period": 1, "update_period": 1},
                    {"write_period": 2, "update_period": 3, "reduce": "mean"},
                    {"write_period": 1, "update_period": 5, "reset_period": 4},
                ],
            },
        },
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": {"warmup": 5, "decay": "constant"},
        "run": {"steps": 70, "eval_interval": 0, "checkpoint_interval": 0},
    }  # fmt: skip
    for path, value in changes.items():
        table[path.split("__")[0]][path.split("__")[1]] = value
    return make_config(table)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    whole = open_corpus()
    return Corpus("small", whole.train[:20_000], (0,), whole.heldout[:3], "0" * 64)


def exactly(made: Build) -> dict[str, bytes]:
    """Everything the next step depends on, as bytes."""
    parts, meta = made.parts()
    found = {
        f"{part}/{name}": tensor.detach().numpy().tobytes()
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }
    return {**found, "meta": json.dumps(meta, sort_keys=True).encode()}


def test_resume_at_ten_random_steps_is_bit_identical(tmp_path: Path, corpus: Corpus) -> None:
    config = tiny()
    stops = sorted(torch.randperm(20, generator=torch.Generator().manual_seed(0))[:STOPS].tolist())
    whole = Build(config, corpus)
    folder, losses, bytes_at = RunFolder(tmp_path, keep=0), [], {}
    folder.begin(whole)
    ends = {stop + AFTER for stop in stops}
    for step in range(max(stops) + AFTER):
        if step in stops:
            folder.save(whole)
        losses.append(whole.step()["loss"])
        if step + 1 in ends:
            bytes_at[step + 1] = exactly(whole)
    for stop in stops:
        again = Build(config, corpus)
        again.restore(*folder.checkpoints.load(stop))
        assert [again.step()["loss"] for _ in range(AFTER)] == losses[stop : stop + AFTER]
        assert exactly(again) == bytes_at[stop + AFTER]


def test_a_run_is_a_function_of_its_config(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "open_corpus", lambda _: corpus)
    records = []
    for name in ("a", "b"):
        torch.rand(7)  # global randomness must not matter
        build(tiny(run__steps=4), RunFolder(tmp_path / name))
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        records.append([{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines])
    assert records[0] == records[1]
    assert len(records[0]) == 5
    assert records[0][-1]["final"]


def test_interrupt_saves_and_resume_ends_like_the_whole_run(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "open_corpus", lambda _: corpus)
    config = tiny(run__steps=6)
    whole = build(config, RunFolder(tmp_path / "whole"))

    def interrupt(record: dict[str, Any]) -> None:
        if record["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(config, RunFolder(tmp_path / "cut"), watch=interrupt)
    resumed = build(config, RunFolder(tmp_path / "cut"), resume=True)
    assert exactly(resumed) == exactly(whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4, 5, 6]


def test_wall_changes_no_number(corpus: Corpus) -> None:
    walled, open_ = Build(tiny(), corpus), Build(tiny(run__wall=False), corpus)
    for _ in range(5):
        assert walled.step()["loss"] == open_.step()["loss"]


def test_accumulation_averages_chunks(corpus: Corpus) -> None:
    made = Build(tiny(run__accumulate=3), corpus)
    single = Build(tiny(), corpus)
    first = single._forward_backward(single.stream.next_chunk())[0]
    record = made.step()
    assert made.stream.position == 36
    assert record["loss"] != first


def test_divergence_names_step_and_quantity(corpus: Corpus) -> None:
    made = Build(tiny(), corpus)
    with torch.no_grad():
        made.model.head.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"step 0: loss is nan"):
        made.step()


def test_folders_that_do_not_fit_are_refused(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "open_corpus", lambda _: corpus)
    config = tiny(run__steps=1)
    build(config, RunFolder(tmp_path / "run"))
    with pytest.raises(InputError, match="holds a run already; use --resume"):
        build(config, RunFolder(tmp_path / "run"))
    RunFolder(tmp_path / "short").begin(Build(config, corpus))
    with pytest.raises(InputError, match="ended before its first checkpoint; use another --out"):
        build(config, RunFolder(tmp_path / "short"))
    with pytest.raises(CheckpointError, match=r"made with another model\.width"):
        build(tiny(run__steps=1, model__width=16), RunFolder(tmp_path / "run"), resume=True)
    with pytest.raises(CheckpointError, match="no run is here"):
        build(config, RunFolder(tmp_path / "none"), resume=True)
    model, loaded = load_run(tmp_path / "run")
    assert loaded == config
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


def test_evaluation_ignores_padding_and_carries_nothing_between_passages(corpus: Corpus) -> None:
    model = Build(tiny(), corpus).model
    passages = [b"a short one", b"and another passage that is longer than the first", b"x"]
    apart = [bits_per_byte(model, [passage]) * (len(passage) - 1) for passage in passages[:2]]
    together = bits_per_byte(model, passages)
    counted = sum(len(passage) - 1 for passage in passages[:2])
    assert together == pytest.approx(sum(apart) / counted, abs=1e-6)
