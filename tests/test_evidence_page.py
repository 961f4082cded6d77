"""The committed results: whole manifests, the pages made of them, and runs that repeat bit for bit."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hecate_core.cli.main import run
from hecate_core.config import config_digest, make_config
from hecate_core.evidence import load_evidence, written_rules
from hecate_core.registry import registry
from hecate_core.sweeping import read_sweep

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks" / "evidence"
FILES = sorted(FOLDER.glob("*.json"))
NAMED = (
    "config_digest",
    "seed",
    "data",
    "plugins",
    "device",
    "dtype",
    "versions",
    "numerics",
    "threads",
    "machine",
    "commit",
)


def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evidence_page", ROOT / "benchmarks" / "evidence_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_of_the_files_and_they_show_what_they_are_kept_for() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "evidence_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_runs_that_compare_would_refuse_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made, found = page(), load_evidence(FOLDER / "passkey.json")
    found["runs"][-1]["manifest"]["commit"] = "0" * 40
    monkeypatch.setattr(made, "results", lambda: {"passkey": found})
    monkeypatch.setattr(sys, "argv", ["evidence_page.py", "--check"])
    with pytest.raises(SystemExit, match=r"passkey\.json: hecate compare would refuse its runs: .*commit"):
        made.main()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_run_carries_a_whole_manifest_and_three_seeds(file: Path) -> None:
    found = load_evidence(file)  # refuses a file whose id is not that of its runs
    seeds: dict[str, set[int]] = {}
    for one in found["runs"]:
        manifest = one["manifest"]
        assert all(manifest[key] not in (None, "", []) for key in NAMED)
        assert manifest["dirty"] is False
        assert manifest["machine"]["processor"]
        assert one["records"][-1]["final"]
        seeds.setdefault(one["cell"].rsplit("/", 1)[0], set()).add(manifest["seed"])
    assert all(len(one) >= 3 for one in seeds.values())
    assert len(seeds) >= 2  # a result and its twin


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_runs_are_those_of_the_sweep_beside_them(file: Path) -> None:
    sweep = read_sweep(file.with_suffix(".toml"))
    assert {cell.path for cell in sweep.cells} == {one["cell"] for one in load_evidence(file)["runs"]}
    base = tomllib.loads(Path(sweep.base).read_text())
    for one in load_evidence(file)["runs"]:
        config = make_config(one["config"])
        assert config.data.batch == base["data"]["batch"]
        assert config.seed == one["manifest"]["seed"]


def test_every_rule_was_written_beside_a_twin_that_was_not() -> None:
    shown = {rule for file in FOLDER.glob("rules-*.json") for rule in written_rules(load_evidence(file))}
    missing = set(registry().names("rule")) - shown
    assert not missing, f"{missing}: a new rule joins a sweep of benchmarks/evidence/rules-*.toml; see docs/evidence.md"


def test_a_file_that_no_longer_shows_its_point_is_refused() -> None:
    made: Any = page()
    found = load_evidence(FOLDER / "parity.json")
    scores = made.scores_of(found)
    assert made.KEPT_FOR["parity"][1](scores)
    assert not made.KEPT_FOR["parity"][1]({**scores, "write-0-2": [1.0, 0.9, 1.0]})
    assert not made.KEPT_FOR["parity"][1]({**scores, "write-0-1": [0.5, 0.5, 0.7]})
    assert not made.twins_fail({"written": [0.99, 0.8, 0.99], "writes-off": [0.1, 0.1, 0.1]})
    assert not made.twins_fail({"written": [0.99] * 3, "writes-off": [0.1, 0.3, 0.1]})
    assert not made.twins_fail({})


@pytest.mark.soak
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("place", [0, -1])
def test_a_committed_run_is_repeated_bit_for_bit(file: Path, place: int, tmp_path: Path) -> None:
    """The first and the last run of every file; skipped where the machine is another one."""
    from hecate_core.provenance import machine

    one = load_evidence(file)["runs"][place]
    if machine()["processor"] != one["manifest"]["machine"]["processor"]:
        pytest.skip(f"made on {one['manifest']['machine']['processor']}; bits repeat on one machine")
    assert config_digest(make_config(one["config"]))
    assert run(["build", "--replay", f"{file}:{one['cell']}", "--out", str(tmp_path / "again")]) == 0
