"""Benchmarks: every cell is timed or says why not, and a file carries what it was made on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hecate_core.benching import Plan, bench, bench_id
from hecate_core.cli.main import run
from hecate_core.errors import CompositionError, InputError
from hecate_core.memory_layer import MemoryLayer

ROOT = Path(__file__).parent.parent


def tiny(**given: object) -> Plan:
    return Plan(**{"rules": ("delta",), "lengths": (8,), "width": 8, "heads": 2, "seconds": 0.0, **given})  # type: ignore[arg-type]


def test_every_cell_of_the_plan_is_a_row() -> None:
    found = bench(tiny(rules=("delta", "moneta"), lengths=(4, 8), batch=2))
    assert [(row["rule"], row["tokens"], row["backend"]) for row in found["rows"]] == [
        ("delta", 4, "reference"), ("delta", 8, "reference"), ("moneta", 4, "reference"), ("moneta", 8, "reference"),
    ]  # fmt: skip
    assert [row["strategy"] for row in found["rows"]] == ["chunkwise", "chunkwise", "frozen", "frozen"]
    for row in found["rows"]:
        for part in ("forward", "forward_and_backward"):
            assert row[part]["rounds"] >= 3
            assert 0 < row[part]["worst"] <= row[part]["tokens_per_second"]


def test_state_bytes_are_those_of_one_row() -> None:
    (row,) = bench(tiny(batch=3))["rows"]
    state = MemoryLayer(8, 2, rule="delta").init_state(1).flat()
    assert row["state_bytes"] == sum(one.numel() * one.element_size() for one in state.values())


def test_what_cannot_run_says_why() -> None:
    (row,) = bench(tiny(backends=("warp",)))["rows"]
    assert row["reason"].startswith('backend "warp" has no kernel pair for op "affine"')
    assert "forward" not in row
    (row,) = bench(tiny(rules=("moneta",), backends=("warp",)))["rows"]
    assert row["reason"].startswith('backend "warp" has no kernel pair for op "decayed_linear"')
    with pytest.raises(InputError, match="not installed"):
        bench(tiny(rules=("delto",)))
    with pytest.raises(InputError, match=r"lengths = \[0\]"):
        bench(tiny(lengths=(0,)))
    with pytest.raises(InputError, match="batch = 0; expected an integer >= 1"):
        bench(tiny(batch=0))
    with pytest.raises(InputError, match="seconds = nan"):
        bench(tiny(seconds=float("nan")))
    with pytest.raises(CompositionError, match="width 7 does not divide into 2 heads"):
        bench(tiny(width=7))
    with pytest.raises(InputError, match='device "warp"'):
        bench(tiny(devices=("warp",)))


def test_the_file_carries_its_recipe_and_an_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "found.json"
    words = ["bench", "--rule", "delta", "--tokens", "8", "--device", "cpu", "--width", "8", "--seconds", "0.001"]
    threads = torch.get_num_threads()
    try:
        assert run([*words, "-o", str(place)]) == 0
        assert run(["bench", "--tokens", "many"]) == 2
    finally:
        torch.set_num_threads(threads)
    found = json.loads(place.read_text())
    assert found["schema"] == "hecate.bench/1"
    assert found["id"] == bench_id(found)
    assert found["manifest"]["machine"]["processor"]
    assert f"id {found['id']}" in capsys.readouterr().out
    found["rows"][0]["tokens"] += 1
    assert found["id"] != bench_id(found)


def test_the_page_is_made_of_the_file() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "bench_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
