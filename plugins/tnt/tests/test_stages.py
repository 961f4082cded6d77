"""The worked example of both stages, from its TOML files: the second begins with the weights of the first."""

import json
from pathlib import Path
from typing import Any

import hecate_tnt
import pytest

from hecate_core.cli.main import run
from hecate_core.config import load_config
from hecate_core.run_folder import load_manifest, load_run

EXAMPLES = Path(hecate_tnt.__file__).parent / "examples"
SMALL = (
    "data.path=text.txt", "data.batch=4", "data.length=64", "data.context=64", "model.width=16", "model.depth=1",
    "schedule.warmup=0", "schedule.decay=constant", "run.eval_interval=0",
)  # fmt: skip


def built(stage: int, out: str, *settings: str) -> int:
    words = [word for one in (*SMALL, *settings) for word in ("--set", one)]
    return run(["build", str(EXAMPLES / f"stage-{stage}.toml"), "--out", out, *words])


def numbers(out: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in one.items() if key != "seconds"} for one in lines]


def losses(out: str) -> list[float]:
    return [one["loss"] for one in numbers(out) if "loss" in one]


def test_the_second_stage_is_told_in_a_file_and_goes_on_where_the_first_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n\n".join(f"{n} and its square {n * n}" for n in range(60)))
    assert built(1, "runs/stage-1", "run.steps=16", "optimizer.lr=0.02") == 0
    assert built(2, "runs/stage-2", "run.steps=3") == 0
    assert load_config("runs/stage-2/config.json").start.weights == "runs/stage-1"
    assert load_manifest("runs/stage-2")["start"]["weights"]["step"] == 16
    coarse, fine = losses("runs/stage-1"), losses("runs/stage-2")
    assert fine[0] < coarse[0] - 0.5
    assert abs(fine[0] - coarse[-1]) < 0.5
    assert load_run("runs/stage-1")[0].state_dict().keys() == load_run("runs/stage-2")[0].state_dict().keys()
    assert built(2, "again", "run.steps=3") == 0
    assert numbers("again") == numbers("runs/stage-2")


def test_the_files_differ_in_the_stage_and_in_how_it_is_gone_about() -> None:
    one, two = (load_config(EXAMPLES / f"stage-{stage}.toml") for stage in (1, 2))
    assert one.model.memory is not None
    assert two.model.memory is not None
    first, second = dict(one.model.memory.strategy.options), dict(two.model.memory.strategy.options)
    assert {key: value for key, value in second.items() if key not in ("stage", "fine_chunks")} == first
    assert second["stage"] == 2
    assert one.data == two.data
    assert two.run.steps * 20 == one.run.steps
