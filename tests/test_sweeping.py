"""Sweeps: checked before they start, a failed cell stops nobody, killed and resumed they end with the same table."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hecate_core import files
from hecate_core.checking.findings import Findings
from hecate_core.cli.main import run
from hecate_core.config import Config, config_digest, load_config
from hecate_core.errors import CompositionError, ConfigError
from hecate_core.sweeping import check_cells, demand_checked, read_sweep
from hecate_core.testing.engine import Check

from .tiny_text import tiny, write_text

SWEEPS = sorted((Path(__file__).parents[1] / "benchmarks" / "evidence").glob("*.toml"))
SWEEPS = [file for file in SWEEPS if not file.stem.endswith("-base")]
SWEEP = """
base = "base.toml"
seeds = [0, 1]
[grid]
"model.memory.rule" = ["delta", "titans"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_text(600)
    Path("base.toml").write_text(tiny())
    Path("sweep.toml").write_text(SWEEP)
    return tmp_path


def test_cells_are_the_grid_times_the_seeds() -> None:
    sweep = read_sweep("sweep.toml")
    assert [cell.path for cell in sweep.cells] == [
        "rule-delta/seed-0", "rule-delta/seed-1", "rule-titans/seed-0", "rule-titans/seed-1",
    ]  # fmt: skip
    configs = [config for _, config in check_cells(sweep, Path("base.toml"))]
    assert [config.seed for config in configs] == [0, 1, 0, 1]
    assert configs[2].model.memory is not None
    assert configs[2].model.memory.rule.name == "titans"


def test_cases_are_named_settings_that_meet_the_whole_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cases.toml").write_text(
        SWEEP + '[cases.written]\n[cases.twin]\n"model.memory.writes" = false\n"model.memory.conv" = 0\n'
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sweep = read_sweep("../cases.toml")  # its base lies beside it
    assert [cell.path for cell in sweep.cells][::2] == [
        "written,rule-delta/seed-0", "written,rule-titans/seed-0", "twin,rule-delta/seed-0", "twin,rule-titans/seed-0",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found = {cell.path: config.model.memory for cell, config in check_cells(sweep, tmp_path / "base.toml")}
    assert [(one.writes, one.conv) for one in found.values() if one] == [(True, 4)] * 4 + [(False, 0)] * 4


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seeds = [0]", "expected base"),
        ('base = "x"\ncases = 3', "cases; expected tables of settings"),
        ('base = "x"\n[cases."a/b"]', 'case "a/b"; expected a name of letters'),
        ('base = "x"\nsede = [0]', 'unknown key "sede"; did you mean "seeds"'),
        ('base = "x"\nseeds = [0, 0]', "expected each once"),
        ('base = "x"\nseeds = [-1]', "integers >= 0"),
        ('base = "x"\n[grid]\n"a.b" = 3', "table of lists"),
        ('base = "x"\n[grid]\n"a.b" = [1, 1]', "names a value twice"),
        ("base = ", "expected a sweep in TOML"),
        ('base = "x"\n[grid]\nseed = [1, 2]', r'grid sets "seed"; use seeds = '),
        ('base = "x"\n[set]\nseed = 3', r'set sets "seed"; use seeds = '),
        ('base = "x"\n[cases.twin]\nseed = 3', r'cases.twin sets "seed"; use seeds = '),
        (
            'base = "x"\n[grid]\n"data.path" = ["a/b.txt", "a-b.txt"]',
            'grid "data.path": "a/b.txt" and "a-b.txt" would share the folder path-a-b.txt/seed-0; expected',
        ),
    ],
)
def test_malformed_sweeps_are_one_line(text: str, line: str) -> None:
    Path("bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=line) as error:
        read_sweep("bad.toml")
    assert "\n" not in str(error.value)


def test_a_cell_that_cannot_be_built_stops_the_sweep_before_it_starts() -> None:
    Path("sweep.toml").write_text(SWEEP.replace('"titans"', '"titans-deep"'))
    with pytest.raises(CompositionError, match=r"sweep cell rule-titans-deep/seed-0: .*not linear in its weights"):
        list(check_cells(read_sweep("sweep.toml"), Path("base.toml")))
    assert run(["sweep", "sweep.toml"]) == 2
    assert not Path("runs").exists()


def test_a_cell_that_fails_hecate_check_stops_the_sweep_before_it_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def check(config: Config) -> Findings:
        name = config.model.memory.rule.name if config.model.memory else ""
        asked.append(name)
        outcome = Check("titans", "is-causal", "failed", "token 3 sees token 4")
        return Findings([outcome] if name == "titans" else [])

    monkeypatch.setattr("hecate_core.sweeping.check_config", check)
    assert run(["sweep", "sweep.toml"]) == 2
    assert asked == ["delta", "titans"]  # one seed of each
    assert "sweep cell rule-titans/seed-0: " in capsys.readouterr().err
    assert not (folder / "runs").exists()
    assert run(["sweep", "sweep.toml", "--no-check", "--jobs", "2"]) == 0
    assert asked == ["delta", "titans"]
    assert run(["sweep", "sweep.toml", "--resume"]) == 0  # nothing waits, nothing is checked
    assert asked == ["delta", "titans"]


def test_cells_are_checked_once_for_all_their_seeds() -> None:
    """The real check, over the real cells."""
    told: list[str] = []
    cells = [(cell, config) for cell, config in check_cells(read_sweep("sweep.toml"), Path("base.toml"))]
    assert demand_checked(cells, tell=told.append) == 2
    assert told == ["checking rule-delta/seed-0", "checking rule-titans/seed-0"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def one_cell(folder: Path, **base: object) -> list[str]:
    """The command of a sweep of one run, some keys of its base changed."""
    text = tiny()
    for key, value in base.items():
        text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", text)
    (folder / "base.toml").write_text(text)
    (folder / "sweep.toml").write_text('base = "base.toml"\n')
    return ["sweep", "sweep.toml", "--no-check", "--out", "out"]


def test_runs_of_another_config_are_no_part_of_a_resumed_sweep(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(one_cell(folder)) == 0
    before = content(folder / "out")
    words = [*one_cell(folder, steps=6), "--resume", "--save", "found.json"]
    for _ in range(2):  # a finished run, then one that could go on
        assert run(words) == 2
        line = "sweep cell base/seed-0: out/base/seed-0 holds a run with another run.steps; "
        assert line in capsys.readouterr().err
        assert content(folder / "out") == before
        assert not (folder / "found.json").exists()
        metrics = folder / "out" / "base" / "seed-0" / "metrics.jsonl"
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
        before = content(folder / "out")
    assert run([*one_cell(folder), "--resume"]) == 0


def test_what_was_never_saved_is_begun_anew_whatever_it_was(folder: Path) -> None:
    assert run(one_cell(folder)) == 0
    cell = folder / "out" / "base" / "seed-0"
    for checkpoint in (cell / "checkpoints").iterdir():
        (checkpoint / "manifest.json").unlink()  # the last file of a checkpoint, so none of them is whole
    (cell / "metrics.jsonl").unlink()
    assert run([*one_cell(folder, steps=6), "--resume"]) == 0
    (row,) = json.loads((folder / "out" / "table.json").read_text())["rows"]
    assert "failed" not in row
    assert json.loads((cell / "config.json").read_text())["run"]["steps"] == 6


@pytest.mark.parametrize("place", ["out", "out/base/seed-0"])
def test_a_second_sweep_touches_nothing_of_a_running_one(
    folder: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process holds the sweep, or a run that has not saved anything yet and does not end."""
    monkeypatch.setattr("hecate_core.sweeping.HOLDER_SECONDS", 0.0)
    words = one_cell(folder)
    (folder / "out" / "base" / "seed-0").mkdir(parents=True)
    (folder / "out" / "base" / "seed-0" / "metrics.jsonl").write_text('{"step": 0}\n')
    with files.exclusive(folder / place):
        assert run([*words, "--resume"]) == 2
        assert f"{place}: another process writes there" in capsys.readouterr().err
        assert (folder / "out" / "base" / "seed-0" / "metrics.jsonl").read_text() == '{"step": 0}\n'
    assert run([*words, "--resume"]) == 0


def test_a_run_that_diverged_keeps_its_bundle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = one_cell(folder)
    bundle = folder / "out" / "base" / "seed-0" / "diverged-1"
    bundle.mkdir(parents=True)
    (bundle / "model.safetensors").write_text("numbers")
    (bundle.parent / "manifest.json").write_text(
        json.dumps({"schema": "hecate.run/1", "config_digest": config_digest(load_config("base.toml", ["seed=0"]))})
    )
    assert run([*words, "--resume"]) == 1
    assert "it diverged, see out/base/seed-0; remove it to run it again" in capsys.readouterr().err
    assert (bundle / "model.safetensors").read_text() == "numbers"
    assert json.loads((folder / "out" / "table.json").read_text())["rows"][0]["failed"]


def test_a_failed_run_names_its_log_and_its_last_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = one_cell(folder)
    (folder / "text.txt").unlink()
    assert run(words) == 1
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("failed"))
    assert line.startswith("failed (4) base/seed-0, see out/base/seed-0.log: ")
    assert "text.txt" in line


def test_an_interrupt_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    words = one_cell(folder)
    monkeypatch.setattr("hecate_core.sweeping._wait_any", interrupted)
    assert run(words) == 130
    assert "continue with: hecate sweep sweep.toml --out out --resume" in capsys.readouterr().err


@pytest.mark.parametrize("save", ["nowhere/found.json", "."])
def test_a_place_that_cannot_be_saved_to_is_refused_before_the_first_run(
    folder: Path, save: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*one_cell(folder), "--save", save]) == 2
    assert f"--save {save}: no file can be written there" in capsys.readouterr().err
    assert not (folder / "out").exists()


def killed_and_resumed(folder: Path, seeds: list[int], kills: int) -> tuple[list[dict[str, object]], ...]:
    """The rows of a sweep that was left alone, and of one killed again and again after some of its runs were saved."""
    (folder / "base.toml").write_text(tiny(steps=12))
    (folder / "sweep.toml").write_text(SWEEP.replace("[0, 1]", str(seeds)))
    assert run(["sweep", "sweep.toml", "--no-check", "--out", "whole", "--jobs", "2"]) == 0
    words = [sys.executable, "-m", "hecate_core.cli", "sweep", "sweep.toml", "--no-check"]
    words += ["--out", "cut", "--jobs", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for kill in range(kills):
        before = len(list((folder / "cut").glob("*/*/checkpoints/step-*")))
        resume = ["--resume"] if kill else []
        process = subprocess.Popen(
            [*words, *resume], env=environment, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and len(list((folder / "cut").glob("*/*/checkpoints/step-*"))) <= before:
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (folder / "cut" / "table.json").exists()
    assert run(["sweep", "sweep.toml", "--out", "cut"]) == 2
    assert run(["sweep", "sweep.toml", "--no-check", "--out", "cut", "--resume", "--jobs", "2"]) == 0
    return tuple(json.loads((folder / name / "table.json").read_text())["rows"] for name in ("whole", "cut"))


def test_killed_and_resumed_it_ends_with_the_same_table(folder: Path) -> None:
    whole, cut = killed_and_resumed(folder, [0], kills=2)
    assert whole == cut
    assert len(whole) == 2


@pytest.mark.soak
def test_twelve_runs_killed_twice_end_with_the_same_table(folder: Path) -> None:
    whole, cut = killed_and_resumed(folder, [0, 1, 2, 3, 4, 5], kills=2)
    assert whole == cut
    assert len(whole) == 12


@pytest.mark.soak
@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_committed_sweep_passes_its_own_check(file: Path) -> None:
    sweep = read_sweep(file)
    assert demand_checked(check_cells(sweep, Path(sweep.base)), tell=lambda line: None)
