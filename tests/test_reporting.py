"""The report: every figure has content, nothing asks for a network, and a planted dead level is seen at a glance."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch

from hecate_core.building import build
from hecate_core.cli.main import run
from hecate_core.errors import CheckpointError, InputError
from hecate_core.reporting.figures import loss_figure
from hecate_core.reporting.probe import Level, probe
from hecate_core.reporting.run import report
from hecate_core.reporting.verdict import judge

pytest.importorskip("matplotlib")

# Level 0 lives; level 1 rests between updates; level 2's writes end at 1e-7: planted dead.
CONFIG = {
    "data": {"batch": 2, "length": 32},
    "model": {
        "width": 16, "depth": 1,
        "memory": {
            "rule": "titans", "chunk": 8,
            "levels": [{}, {"update_period": 3}, {"gates": {"write": {"high": 1e-7, "init": 1e-8}}}],
        },
    },
    "run": {"steps": 9, "eval_interval": 0, "checkpoint_interval": 0},
}  # fmt: skip
FIGURES = {"loss", "throughput", "rates", "norms", "gates", "buffers", "surprise"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "text.txt").write_text("\n\n".join(f"{n} and its square {n * n}, {'xy' * (n % 9)}" for n in range(600)))
    build({**CONFIG, "data": {"batch": 2, "length": 32, "path": str(folder / "text.txt")}}, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def written(built: Path) -> str:
    assert run(["report", str(built), "-o", str(built.parent / "report.html"), "--tokens", "24"]) == 0
    return (built.parent / "report.html").read_text()


def figures(text: str) -> dict[str, ElementTree.Element]:
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg .*?</svg>", text, re.DOTALL)]
    return {one.attrib["id"]: one for one in found}


def drawn(element: ElementTree.Element) -> int:
    """Shapes of the data: lines with two points and bars with an area, without axes, grids, frames and legends."""
    name = element.attrib.get("id", "")
    if re.search(r"-(matplotlib\.axis|legend)_\d+$", name):
        return 0
    count = 0
    if re.search(r"-(line2d|patch)_\d+$", name):
        for path in element.findall("{http://www.w3.org/2000/svg}path"):
            points = set(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.attrib["d"]))
            count += len(points) > 1 and "clip-path" in path.attrib
    return count + sum(map(drawn, element))


def test_every_figure_is_there_and_none_is_empty(written: str) -> None:
    found = figures(written)
    assert set(found) == FIGURES
    for name, figure in found.items():
        assert drawn(figure) >= (6 if name in ("norms", "rates") else 1), name


def test_an_empty_figure_would_be_found() -> None:
    empty = figures(loss_figure({"none": []}))["loss"]
    assert drawn(empty) == 0


def lines(element: ElementTree.Element) -> int:
    """Drawn paths of two points or more inside the element's axes: data lines, no ticks, grids or legends."""
    return sum(drawn(axes) for axes in element.iter() if re.search(r"-axes_\d+$", axes.attrib.get("id", "")))


def test_scores_of_interim_evaluations_are_drawn_below_the_loss() -> None:
    steps: list[dict[str, Any]] = [
        {"step": n, "loss": 3.0 - n, "lr": 0.1, "tokens": 8, "seconds": 1.0} for n in range(3)
    ]
    final = {"step": 3, "final": True, "bits_per_byte": 1.5, "bits_per_byte_memory_off": 2.5}
    without = figures(loss_figure({"run": [*steps, final]}))["loss"]
    assert lines(without) == 1  # the end alone stands in the table of scores
    steps[1] |= {"bits_per_byte": 2.0, "bits_per_byte_memory_off": 2.75}
    text = loss_figure({"run": [*steps, final], "other": [*steps[:1], {"step": 1, "final": True, "accuracy": 0.5}]})
    assert lines(figures(text)["loss"]) == 3  # the loss, and two scores that were taken twice
    for label in ("run: bits_per_byte", "run: bits_per_byte_memory_off", "other: accuracy"):
        assert f">{label}<" in text
    assert ">cut: bits_per_byte<" in loss_figure({"cut": steps})  # stopped after its first evaluation
    for label in ("lr", "seconds"):
        assert f": {label}<" not in text


def test_a_build_with_interim_evaluations_shows_them(built: Path) -> None:
    table = {"data": {"batch": 2, "length": 32, "path": str(built.parent / "text.txt")}, "model": CONFIG["model"]}
    build({**table, "run": {"steps": 4, "eval_interval": 2, "checkpoint_interval": 0}}, built.parent / "evaluated")
    text, _ = report([built.parent / "evaluated"], tokens=8)
    assert ">evaluated: bits_per_byte<" in text
    assert lines(figures(text)["loss"]) == 3


def test_every_level_of_many_is_drawn_and_a_dead_one_among_them_seen(built: Path) -> None:
    dead = {"gates": {"write": {"high": 1e-7, "init": 1e-8}}}
    memory = {"rule": "titans", "chunk": 8, "levels": [{}, {}, {}, {}, {}, dead]}
    table = {"data": {"batch": 2, "length": 32, "path": str(built.parent / "text.txt")}}
    model = {"width": 16, "depth": 1, "memory": memory}
    run_table = {"steps": 2, "eval_interval": 0, "checkpoint_interval": 0}
    build({**table, "model": model, "run": run_table}, built.parent / "six")
    text, rows = report([built.parent / "six"], tokens=16)
    assert [row["state"] for row in rows].index("dead") == 5
    coloured = re.findall(r'<p>(block 0, level \d)</p>\n<div class="text">(.*?)</div>', text, re.DOTALL)
    assert [name for name, _ in coloured] == [f"block 0, level {n}" for n in range(6)]
    strongest = [max(map(float, re.findall(r"rgba\(214,69,65,([\d.]+)\)", marks))) for _, marks in coloured]
    assert strongest[5] == 0.0 < min(strongest[:5])
    surprise = figures(text)["surprise"]
    panels = [one for one in surprise.iter() if re.search(r"-axes_\d+$", one.attrib.get("id", ""))]
    assert [lines(panel) for panel in panels] == [1] * 6  # a panel for each, none of them empty
    said = ElementTree.tostring(surprise, encoding="unicode")
    assert [f"block 0, level {n}: DEAD<" in said for n in range(6)] == [False] * 5 + [True]


def test_the_file_asks_for_nothing(written: str) -> None:
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", written)
    assert not re.search(r'(src|href)="(?!#)', without_names)
    assert "@import" not in written
    assert "<script" not in written
    ids = re.findall(r'\bid="([^"]+)"', written)
    assert len(ids) == len(set(ids))


def test_a_planted_dead_level_is_told_by_text_and_colour(written: str, built: Path) -> None:
    assert "Dead levels: run: block 0, level 2." in written
    glance = re.findall(r"<tr><td>block 0, level (\d)</td><td>(.*?)</td>", written)
    assert [(level, "DEAD" in state, "#b3261e" in state) for level, state in glance] == [
        ("0", False, False), ("1", False, False), ("2", True, True),
    ]  # fmt: skip
    assert "never holds more than" in written
    assert "block 0, level 2: DEAD" in written  # in its panel of the norms
    assert "gate write sits" not in written  # the range was narrowed: inside it the gate is free
    text, rows = report([built], tokens=16)
    assert [row["state"] for row in rows][2] == "dead"
    assert text.count("<svg ") == len(FIGURES)


def test_the_text_is_coloured_by_the_surprise_of_its_level(written: str) -> None:
    alive, _, dead = re.findall(r'<div class="text">(.*?)</div>', written, re.DOTALL)
    shares = [[float(share) for share in re.findall(r"rgba\(214,69,65,([\d.]+)\)", text)] for text in (alive, dead)]
    assert len(shares[0]) == len(shares[1]) == 24
    assert max(shares[0]) > 0.1
    assert max(shares[1]) == 0.0


def test_numbers_of_the_page_are_those_of_the_run(written: str, built: Path) -> None:
    records = [json.loads(line) for line in (built / "metrics.jsonl").read_text().splitlines()]
    mean = round(sum(r.get("tokens", 0) for r in records) / sum(r.get("seconds", 0) for r in records))
    assert f'<td class="number">{mean:,}</td>' in written
    assert "3 of 9 steps" in written
    assert "chunkwise" in written
    assert "titans with column" in written
    assert json.loads((built / "manifest.json").read_text())["config_digest"] in written


def test_the_probe_sees_what_a_whole_reading_sees(built: Path) -> None:
    seen = probe(built, tokens=24)
    assert len(seen.ids) == 24
    assert set(seen.health) == {1}
    for level in seen.levels:
        assert level.memory.shape == level.change.shape == level.surprise.shape == (24,)
        assert set(level.gates) == {"retain", "write", "momentum"}
        assert all(low <= float(used.min()) <= float(used.max()) <= high for used, (low, high) in _gates(level))
        assert level.write_rate == 1.0
    assert seen.levels[2].fill < 1e-3 < seen.levels[0].fill
    assert abs(seen.levels[2].effect) < 1e-4 < abs(seen.levels[0].effect)


def _gates(level: Level) -> list[tuple[torch.Tensor, tuple[float, float]]]:
    return [(level.gates[name], level.ranges[name]) for name in level.gates]


def level(**given: object) -> Level:
    ones = torch.ones(10, dtype=torch.float64)
    whole: dict[str, object] = {
        "block": 0, "level": 1, "gates": {}, "ranges": {}, "memory": ones, "momentum": None, "change": ones,
        "surprise": ones, "fill": 1.0, "effect": 0.1,
    }  # fmt: skip
    return Level(**{**whole, **given})  # type: ignore[arg-type]


def test_verdicts_name_their_reason() -> None:
    assert judge(level()).state == "live"
    never = judge(level(change=torch.zeros(10)))
    assert (never.state, never.reasons) == ("dead", ("none of 10 tokens changed its memory",))
    assert judge(level(fill=1e-5)).state == "dead"
    assert "masking its writes changes the loss by" in judge(level(effect=0.0)).reasons[0]
    stuck = level(gates={"write": torch.full((10,), 0.001)}, ranges={"write": (0.0, 1.0)})
    assert judge(stuck).reasons == ("gate write sits at its lower edge for 100% of the tokens",)
    keeps = level(gates={"retain": torch.full((10,), 0.9999)}, ranges={"retain": (0.0, 0.9999)})
    assert judge(keeps).state == "live"
    assert "3 times as long as a healthy one" in judge(level(), buffer=3.0).reasons[0]
    assert judge(level(), updates=(1, 40)).reasons == ("its parameters moved in 1 of 40 steps",)


def test_a_task_run_without_memory_and_several_runs_share_a_page(tmp_path: Path) -> None:
    table = {
        "data": {"task": {"name": "parity", "tokens": 8}, "batch": 2},
        "model": {"vocab": 2, "width": 8, "depth": 1, "composition": "attention", "memory": None},
        "run": {"steps": 3, "eval_interval": 0, "checkpoint_interval": 0},
    }
    for name in ("one", "two"):
        build(table, tmp_path / name)
    text, rows = report([tmp_path / "one", tmp_path / "two"], tokens=8)
    assert set(figures(text)) == {"loss", "throughput"}
    assert rows == []
    assert text.count("<summary>Manifest</summary>") == 2


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(tmp_path)]) == 4
    assert "no run is here" in capsys.readouterr().err
    with pytest.raises(InputError, match="tokens = 1; expected at least 2"):
        report([built], tokens=1)
    with pytest.raises(CheckpointError):
        report([tmp_path / "none"])
