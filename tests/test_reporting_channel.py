"""The report on chains of MLPs: what each level adds, what a FAST one learns while it reads, and which one is dead."""

import json
import math
from pathlib import Path
from typing import cast

import pytest
import torch

from hecate_core.building import build
from hecate_core.cli.main import run
from hecate_core.cms import CMS
from hecate_core.model import Block, LanguageModel, next_token_loss
from hecate_core.reporting.channel import ChannelLevel, channel_levels
from hecate_core.reporting.probe import probe
from hecate_core.reporting.run import report
from hecate_core.reporting.verdict import judge
from hecate_core.run_folder import load_run

pytest.importorskip("matplotlib")

# Beside one level of memory: level 0 learns as it reads, level 1 rests between updates, level 2 never moves.
CONFIG = {
    "data": {"batch": 2, "length": 16},
    "model": {
        "width": 16, "depth": 1, "channel": "cms", "memory": {"rule": "delta", "chunk": 8},
        "cms": {"grain": 16, "levels": [{"rate": 0.1}, {"update_period": 3}, {"lr_scale": 0.0}]},
    },
    "run": {"steps": 6, "eval_interval": 0, "checkpoint_interval": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("channel")
    (folder / "text.txt").write_text("\n\n".join(f"{n} and its square {n * n}, {'xy' * (n % 9)}" for n in range(600)))
    build({**CONFIG, "data": {"batch": 2, "length": 16, "path": str(folder / "text.txt")}}, folder / "run")
    return folder / "run"


def test_every_level_of_the_chain_is_on_the_page(built: Path) -> None:
    assert run(["report", str(built), "-o", str(built.parent / "report.html"), "--tokens", "48"]) == 0
    page = (built.parent / "report.html").read_text()
    for place in range(3):
        assert f"<td>block 0, channel level {place}</td>" in page
    assert 'id="channel"' in page
    assert 'id="learning"' in page
    assert 'id="buffers"' in page
    text, rows = report([built], tokens=48)
    assert [row["level"] for row in rows] == ["block 0, level 0", *(f"block 0, channel level {n}" for n in range(3))]
    assert "2 of 6 steps" in text
    json.dumps(rows)


def test_the_numbers_are_what_silencing_and_learning_give(built: Path) -> None:
    seen = probe(built, tokens=48)
    fast, resting, _ = seen.channel
    assert [one.level for one in seen.channel] == [1, 2, 3]
    assert set(seen.health) == {2}
    assert fast.change is not None
    assert fast.change.shape == (3,)
    assert bool((fast.change > 0).all())
    assert resting.change is None

    model, chain, ids = chained(built)
    with torch.no_grad():
        whole = bits(model, ids)
        found = channel_levels(model, ids[:, :-1], ids[:, 1:], lambda: bits(model, ids))[1]
        chain.get_parameter("levels.1.down.weight").zero_()
        silent = bits(model, ids)
    assert math.isclose(found.effect, silent - whole, rel_tol=1e-9)
    assert found.effect != 0.0


def chained(built: Path) -> tuple[LanguageModel, CMS, torch.Tensor]:
    model, _ = load_run(built)
    return model, cast(CMS, cast(Block, model.blocks[0]).channel), torch.arange(33).unsqueeze(0)


def bits(model: LanguageModel, ids: torch.Tensor) -> float:
    logits, _ = model(ids[:, :-1], model.init_state(1))
    return float(next_token_loss(logits, ids[:, 1:])) / math.log(2.0)


def test_a_planted_dead_level_is_found(built: Path) -> None:
    model, chain, ids = chained(built)
    with torch.no_grad():
        chain.get_parameter("levels.2.down.weight").mul_(1e-6)
        levels = channel_levels(model, ids[:, :-1], ids[:, 1:], lambda: bits(model, ids))
    states = [judge(level) for level in levels]
    assert [one.state == "dead" for one in states] == [False, False, True]
    assert "of what it was given" in states[2].reasons[0]


def test_verdicts_name_their_reason() -> None:
    def level(share: float = 0.5, effect: float = 0.1, change: torch.Tensor | None = None) -> ChannelLevel:
        return ChannelLevel(block=0, place=0, level=1, share=share, effect=effect, change=change)

    assert judge(level()).state == "live"
    assert judge(level(effect=0.0)).state == "odd"
    assert judge(level(share=0.0)).state == "dead"
    assert "learned nothing" in judge(level(change=torch.zeros(2))).reasons[0]
    assert judge(level(change=torch.ones(2))).state == "live"
    assert "0 of 6 steps" in judge(level(), updates=(0, 6)).reasons[0]
    assert judge(level(), buffer=2.0).state == "odd"
