"""The newcomer's first command, short in every run of the tests and whole in the soak."""

import json
from pathlib import Path

import pytest
import torch

from hecate_core.blueprint import compose
from hecate_core.cli.build import example
from hecate_core.cli.main import run
from hecate_core.config import load_config


def said(capsys: pytest.CaptureFixture[str], words: list[str]) -> dict[str, float]:
    threads = torch.get_num_threads()
    assert run(["demo", "--json", *words]) == 0
    torch.set_num_threads(threads)
    rows = json.loads(capsys.readouterr().out)["comparisons"]
    return {row["name"]: row["bits_per_byte"] for row in rows}


def test_demo_and_twin_have_equal_parameters() -> None:
    counts = [sum(p.numel() for p in compose(load_config(example(name))).parameters()) for name in ("demo", "twin")]
    assert abs(counts[0] - counts[1]) < 0.002 * counts[0]


def test_short_demo_prints_every_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, ["--out", str(tmp_path), "--steps", "1"])
    assert list(found) == ["uniform", "unigram", "bigram", "attention only", "memory, on", "memory, off"]
    assert found["uniform"] == 8.0
    assert {path.name for path in tmp_path.iterdir()} == {"demo-1", "twin-1"}


@pytest.mark.soak
@pytest.mark.parametrize("seed", [0, 1])
def test_whole_demo_is_a_bit_below_the_bigram(tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    found = said(capsys, ["--out", str(tmp_path), "--seed", str(seed)])
    assert found["memory, on"] <= found["bigram"] - 1.0
