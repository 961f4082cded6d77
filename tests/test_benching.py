"""Benchmarks: every cell is timed or says why not, and a file carries what it was made on."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hecate_core import benching
from hecate_core.benching import Plan, bench, bench_id
from hecate_core.cli.main import run
from hecate_core.errors import CompositionError, HecateError, InputError
from hecate_core.memory_layer import MemoryLayer
from hecate_core.registry import registry

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


@pytest.fixture
def unclocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are composed, nothing runs."""
    monkeypatch.setattr(benching, "_pace", lambda *_: {"tokens_per_second": 1, "worst": 1, "rounds": 3})


def sides(rule: str, *backends: str) -> dict[str, list[str]]:
    """Backends by strategy, in the order of the rows."""
    made: dict[str, list[str]] = {}
    for row in bench(tiny(rules=(rule,), backends=backends))["rows"]:
        if "reason" in row:  # kernels that do not hold a chunk so long say so, and are no side
            assert "use a shorter chunk or backend" in row["reason"], row
            continue
        made.setdefault(row["strategy"], []).append(row["backend"])
    return made


@pytest.mark.usefixtures("unclocked")
def test_every_strategy_with_a_pair_is_timed_beside_the_same_one_in_plain_torch() -> None:
    pytest.importorskip("hecate_kernels")
    both = ["reference", "host"]
    assert sides("lattice", "host") == {"sequential": both}
    assert sides("trellis", "host") == {"frozen": both, "sequential": both, "tnt": both}
    assert sides("lattice", "reference", "host") == {"frozen": ["reference"], "sequential": both}
    assert sides("kda", "reference", "host") == {"chunkwise": both}
    for rule in registry().names("rule"):
        served = {strategy for strategy, backends in sides(rule, "host").items() if "host" in backends}
        assert served == paired(rule, "host"), rule


def paired(rule: str, backend: str) -> set[str]:
    """Strategies under which a layer of the rule takes the backend's kernels: composed one by one."""
    found = set()
    for strategy in registry().names("strategy"):
        with contextlib.suppress(HecateError):
            MemoryLayer(8, 2, rule=rule, strategy=strategy, backend=backend)
            found.add(strategy)
    return found


def test_a_refusal_tells_of_the_pair_that_there_could_be() -> None:
    (row,) = bench(tiny(rules=("lattice",), backends=("warp",)))["rows"]
    assert row["reason"].startswith('backend "warp" has no kernel pair for op "lattice"')


def test_what_fails_while_it_runs_names_its_strategy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hecate_kernels")

    def too_large(*_: object, backend: str = "auto", **__: object) -> MemoryLayer:
        if backend == "host":
            raise InputError("too large for one block")
        return MemoryLayer(8, 2, rule="delta", strategy="sequential")

    monkeypatch.setattr(benching, "MemoryLayer", too_large)
    threads = torch.get_num_threads()
    try:
        rows = bench(tiny(rules=("lattice",), backends=("host",)))["rows"]
        assert [(row["strategy"], row["backend"], row.get("reason")) for row in rows] == [
            ("sequential", "reference", None), ("sequential", "host", "too large for one block"),
        ]  # fmt: skip
        words = ["bench", "--rule", "lattice", "--tokens", "8", "--device", "cpu", "--seconds", "0.001"]
        assert run([*words, "--backend", "host"]) == 2  # what was asked for is not timed: its reference is no result
    finally:
        torch.set_num_threads(threads)
    assert "--backend host: too large for one block" in capsys.readouterr().err


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
