"""Input that no command can serve: one line and the documented status, before anything is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hecate_core.checking.memory import estimate
from hecate_core.cli.main import run
from hecate_core.config import make_config
from hecate_core.errors import InputError

from .test_cli_build import TINY, folder, said  # noqa: F401 -- a fixture

BENCH = ["bench", "--rule", "delta", "--tokens", "8", "--device", "cpu", "--width", "8", "--seconds", "0.001"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set", "model.vocab=2"], "model.vocab = 2; expected at least 256"),
        (["--set", "run.device=meta"], 'run.device = "meta"; expected a device that computes'),
        (["--set", "optimizer.lr=1e38"], "--set optimizer.lr: optimizer.lr = 1e+38; expected at most 1e+09"),
        (["--set", "optimizer.lr=-1"], "--set optimizer.lr: optimizer.lr = -1.0; expected a finite number >= 0"),
        (["--set", "model.memory.levels=[{lr_scale=1e38}]"], "lr_scale = 1e+38; expected a number between 0 and 1e+09"),
        (["--set", "run.threads=100000"], "run.threads = 100000; expected an integer between 1 and 1024"),
        (
            ["--set", "model.depth=99999999"],
            "model.depth = 99999999, data.batch = 2: the model needs at least",
        ),
        (
            ["--set", "model.width=262144"],
            "model.width = 262144, model.depth = 1, data.batch = 2: the model needs at l",
        ),
        (["--set", "model.vocab=99999999999"], "the model needs at least"),
        (["--set", "model.attention.window=9999999999"], "the model needs at least"),
        (
            [
                "--set",
                "model.memory.rule=lattice",
                "--set",
                "model.memory.strategy=sequential",
                "--set",
                "model.memory.widths.M=99999999999",
            ],
            "the model needs at least",
        ),
        (["--set", "data.length=99999999999"], "bytes of text for 2 rows; expected at most"),
        (["--set", "model.width=100000000000"], "hecate: does not fit into memory"),
        (["--set", "model.attention.window=9223372036854775807"], "hecate: does not fit into memory"),
    ],
)
def test_a_build_that_cannot_be_leaves_no_folder(
    capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    status, out, err = said(capsys, ["build", *TINY, *words, "--out", "made"])
    assert (status, out, len(err)) == (2, "", 1), err
    assert line in err[0]
    assert not Path("made").exists()


def test_an_estimate_counts_blocks_before_it_makes_them() -> None:
    """On the meta device numbers cost nothing, and a hundred million blocks of Python do."""
    with pytest.raises(InputError, match=r"model\.depth = 99999999: the model needs at least 3,052 GiB"):
        estimate(make_config({"model": {"depth": 99999999}}))


def test_an_empty_out_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capsys, ["build", *TINY, "--out", ""])
    assert status == 2
    assert "--out" in err[0]
    assert not Path("config.json").exists()


def test_an_option_s_mistake_in_a_file_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_text("seed = 1\n[optimizer]\nlr = -1\n")
    status, _, err = said(capsys, ["build", "c.toml"])
    assert (status, err) == (2, ["c.toml:2: optimizer.lr = -1.0; expected a finite number >= 0"])


def test_a_missing_config_is_told_alike_by_build_and_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, ["build", "nope.toml"]) == said(capsys, ["check", "nope.toml"])


def test_a_damaged_config_of_a_run_is_unreadable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", *TINY, "--out", "a"]) == 0
    Path("a/config.json").write_text("{")
    for words in (["build", "--resume", "--out", "a"], ["report", "a"]):
        capsys.readouterr()
        status, _, err = said(capsys, words)
        assert status == 4, words
        assert "the run's own config is damaged" in err[0]


def test_exhaustive_goes_with_all(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capsys, ["check", "--rule", "delta", "--exhaustive"])
    assert status == 2
    assert "expected --all --exhaustive" in err[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--backend", "lol"], '--backend lol: backend "lol" has no kernel pair'),
        (["--width", "7"], "width 7 does not divide into 2 heads"),
        (["--seconds", "nan"], "--seconds nan"),
        (["--seconds", "0"], "--seconds 0.0"),
        (["--batch", "0"], "batch = 0"),
        (["-o", "nodir/b.json"], "--out nodir/b.json"),
    ],
)
def test_a_bench_that_can_time_nothing_is_wrong_input(
    capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    status, out, err = said(capsys, [*BENCH, *words])
    assert (status, out) == (2, "")
    assert line in err[-1]


def test_generate_refuses_before_it_prints_and_streams_utf8(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["build", *TINY, "--out", "a"]) == 0
    capsys.readouterr()
    for words, line in (
        (["--count", "-1"], "count -1; expected"),
        (["--seed", "99999999999999999999999"], "seed 99999999999999999999999; expected"),
        (["--temperature", "inf"], "temperature inf; expected a finite number"),
        (["--learn"], "no level learns"),
    ):
        status, out, err = said(capsys, ["generate", "a", "--prompt", "12 ", *words])
        assert (status, out) == (2, ""), words
        assert line in err[0]

    def spoken(model: object, prompt: bytes, **options: object) -> list[bytes]:
        return [bytes([one]) for one in "é€".encode() + b"\xff\xe2"]

    monkeypatch.setattr("hecate_core.generation.generate", spoken)
    assert said(capsys, ["generate", "a", "--prompt", "x"])[1] == "xé€\ufffd\ufffd\n"


def test_a_plugin_that_fails_in_a_run_is_named(folder: Path) -> None:  # noqa: F811
    assert run(["new", "rule", "stub", "--dir", "stub"]) == 0
    info = folder / "stub/src/hecate_rule_stub-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hecate-rule-stub\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hecate]\nrules = hecate_rule_stub.plugin\n")
    words = [*TINY, "--set", "model.memory.rule=stub", "--set", "model.memory.strategy=sequential", "--out", "a"]
    done = subprocess.run(
        [sys.executable, "-m", "hecate_core.cli", "build", *words],
        env={**os.environ, "PYTHONPATH": str(info.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert 'rule "stub" of hecate-rule-stub 1.0 failed: NotImplementedError: StubRule.step' in done.stderr


def test_autocast_says_nothing_that_nobody_can_mend() -> None:
    words = [*TINY, "--set", "run.autocast=float16", "--out", "a"]
    done = subprocess.run(
        [sys.executable, "-m", "hecate_core.cli", "build", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "Warning" not in done.stderr


def test_an_unknown_plugin_is_likened_to_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capsys, ["plugins", "show", "nope"])
    assert status == 2
    assert 'did you mean "none"' not in err[0]


def test_a_report_says_where_there_is_less_text_than_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", *TINY, "--out", "a"]) == 0
    capsys.readouterr()
    status, _, err = said(capsys, ["report", "a", "--tokens", "100000000"])
    assert status == 0
    assert err[0].startswith("a: no held-out text of 100000000 tokens; ")
