"""`hecate build` and `hecate generate` at the command line: results, exit codes, one line for every mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hecate_core.cli.main import run

TINY = [
    "--set", "model.width=8", "--set", "model.depth=1", "--set", "data.length=16", "--set", "data.batch=2",
    "--set", "data.path=text.txt", "--set", "run.steps=3", "--set", "model.memory.chunk=8",
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    paragraphs = [f"{n} squared is {n * n}, its half {n / 2}, its cube {n**3}; {'ab' * (n % 7)}" for n in range(400)]
    (tmp_path / "text.txt").write_text("\n\n".join(paragraphs))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], words: list[str]) -> tuple[int, str, list[str]]:
    """Exit status, stdout, and stderr without the progress lines."""
    status = run(words)
    out, err = capsys.readouterr()
    return status, out, [line for line in err.splitlines() if not line.startswith(("step ", "run "))]


def test_build_replay_generate(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, ["build", *TINY, "--out", "a", "--json"])
    assert status == 0
    answer = json.loads(out)
    assert answer["schema"] == "hecate.runs/1"
    assert answer["runs"][0]["bits_per_byte"] > 0
    status, out, _ = said(capsys, ["build", "--replay", "a", "--out", "b"])
    assert status == 0
    assert "bit for bit" in out
    lines = Path("a/metrics.jsonl").read_text().splitlines()
    Path("a/metrics.jsonl").write_text("\n".join([lines[0].replace('"loss": ', '"loss": 1'), *lines[1:]]) + "\n")
    status, out, _ = said(capsys, ["build", "--replay", "a", "--out", "c"])
    assert status == 1
    assert "step 0: loss" in out
    for switch in ("on", "off"):
        status, out, _ = said(
            capsys, ["generate", "a", "--prompt", "12 ", "--count", "5", "--memory", switch, "--json"]
        )
        assert status == 0
        assert json.loads(out)["samples"][0]["memory"] == switch
    status, _, err = said(capsys, ["generate", "a", "--prompt", "12 ", "--learn"])
    assert status != 0
    assert "no level learns as it reads" in err[-1]


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["build", "demmo"], 2, 'did you mean "demo"?'),
        (["build", "missing.toml"], 2, "missing.toml"),
        (["build", "--set", "model.widht=8"], 2, 'did you mean "width"?'),
        (["build", *TINY, "--set", "model.memory.rule=titan"], 2, 'did you mean "titans"?'),
        (["build", *TINY, "--set", "model.memory.rule=titans-deep"], 2, 'strategy "chunkwise"'),
        (["build", *TINY, "--set", "model.memory.widths={M=3}"], 2, "expected K"),
        (["build", *TINY, "--set", "data.path=nowhere.txt"], 4, "nowhere.txt"),
        (["build", "--resume"], 2, "--out"),
        (["build", "--resume", "--out", "none"], 4, "no run is here"),
        (["build", "--replay", "none"], 4, "no run is here"),
        (["build", *TINY, "--set", "run.device=abacus"], 2, "abacus"),
        (["generate", "none", "--prompt", "x"], 4, "no run is here"),
        (["generate", "none"], 2, "--prompt"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str], status: int, line: str) -> None:
    found, out, err = said(capsys, words)
    assert found == status, err
    assert out == ""
    assert len(err) == 1, err
    assert line in err[0]
    assert not Path("runs").exists()


def test_interrupt_saves_and_prints_how_to_go_on(folder: Path) -> None:
    words = [sys.executable, "-m", "hecate_core.cli", "build", *TINY, "--set", "run.steps=100000", "--out", "long"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    metrics = folder / "long" / "metrics.jsonl"
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "hecate build --out long --resume" in err
    assert "Traceback" not in err
    assert list((folder / "long" / "checkpoints").glob("step-*"))
