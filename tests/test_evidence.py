"""Packed runs: what a file promises, how a replay is compared with it, and the committed results."""

import json
import re
from pathlib import Path

import pytest

from hecate_core.cli.main import run
from hecate_core.errors import CheckpointError, InputError
from hecate_core.evidence import KEPT, _hash, difference, load_evidence, pack, recorded, save_evidence

SWEEP = """
base = "base.toml"
seeds = [0]
[cases.written]
[cases.twin]
"model.memory.writes" = false
"""
BASE = """
[data]
task = {name = "parity", tokens = 6}
batch = 2
[model]
vocab = 2
width = 8
depth = 1
composition = "lmm"
memory.rule = "delta"
memory.chunk = 8
[run]
steps = 60
eval_interval = 30
checkpoint_interval = 0
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two tiny runs, packed."""
    folder = tmp_path_factory.mktemp("evidence")
    (folder / "base.toml").write_text(BASE)
    (folder / "sweep.toml").write_text(SWEEP)
    words = ["sweep", str(folder / "sweep.toml"), "--out", str(folder / "runs"), "--save", str(folder / "found.json")]
    assert run([*words, "--jobs", "2", "--no-check"]) == 0
    return folder / "found.json"


def changed(packed: Path, tmp_path: Path, change: str) -> str:
    """A packed file in which one number of the first run differs, its id made anew."""
    found = json.loads(packed.read_text())
    for one in found["runs"]:
        if change == "loss":
            one["records"][5]["loss"] += 1e-12
        elif change == "digest":
            one["digest"] = "0" * 64
        else:
            one["manifest"]["threads"] = 7
            one["records"][5]["loss"] += 1e-12
    place = tmp_path / "changed.json"
    save_evidence(place, found)
    text = place.read_text()
    with pytest.raises(CheckpointError, match="changed by hand"):
        load_evidence(place)
    place.write_text(text.replace(found["id"], _hash(found["runs"])[:12]))
    return f"{place}:{found['runs'][0]['cell']}"


def test_a_packed_run_holds_its_recipe_and_few_records(packed: Path) -> None:
    found = load_evidence(packed)
    assert [one["cell"] for one in found["runs"]] == ["written/seed-0", "twin/seed-0"]
    one = recorded(f"{packed}:written/seed-0")
    whole = recorded(packed.parent / "runs" / "written" / "seed-0")
    assert (one.count, one.digest, one.config) == (whole.count, whole.digest, whole.config)
    assert one.manifest["machine"]["processor"]
    assert KEPT <= len(one.records) < len(whole.records) == 61
    assert any("accuracy" in record for record in one.records[:-1])
    assert one.records[-1]["final"]
    assert not any("seconds" in record for record in one.records)


def test_a_replay_repeats_a_packed_run_bit_for_bit(packed: Path, tmp_path: Path) -> None:
    assert run(["build", "--replay", f"{packed}:twin/seed-0", "--out", str(tmp_path / "again")]) == 0
    assert difference(recorded(f"{packed}:twin/seed-0"), recorded(tmp_path / "again")) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("loss", r"step \d+: loss "),
        ("digest", "a record that the file does not keep"),
        ("threads", r"also different: threads.*; bits repeat on one machine, thread count, code and text"),
    ],
)
def test_a_replay_names_the_first_number_that_differs(packed: Path, tmp_path: Path, change: str, words: str) -> None:
    place = changed(packed, tmp_path, change)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert run(["build", "--replay", place, "--out", "again"]) == 1
    found = difference(recorded(place), recorded(tmp_path / "again"))
    assert found is not None
    assert re.search(words, found)


def test_places_that_hold_no_run_are_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match='no run "written/seed-3"; did you mean "written/seed-'):
        recorded(f"{packed}:written/seed-3")
    with pytest.raises(CheckpointError, match="no run is here"):
        recorded(tmp_path)
    with pytest.raises(CheckpointError, match="expected packed runs"):
        recorded(f"{tmp_path / 'none.json'}:a")
    (tmp_path / "other.json").write_text('{"schema": "hecate.sweep/1"}')
    with pytest.raises(CheckpointError, match="holds no packed runs"):
        load_evidence(tmp_path / "other.json")


@pytest.mark.parametrize("runs", [None, [3], [{"cell": "a"}]], ids=str)
def test_runs_that_are_none_are_refused_though_their_id_fits(runs: object, tmp_path: Path) -> None:
    place = tmp_path / "odd.json"
    place.write_text(json.dumps({"schema": "hecate.evidence/1", "id": _hash(runs)[:12], "runs": runs}))
    with pytest.raises(CheckpointError, match="is no list of packed runs"):
        load_evidence(place)


def test_only_finished_runs_are_packed(packed: Path, tmp_path: Path) -> None:
    whole = packed.parent / "runs" / "twin" / "seed-0"
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in ("config.json", "manifest.json"):
        (cut / name).write_text((whole / name).read_text())
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (cut / "metrics.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="is not finished"):
        pack([("cut", cut)])
