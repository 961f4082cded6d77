"""Input that no command can serve: one line and the documented status, before anything is written."""

from pathlib import Path

import pytest

from .test_cli_build import TINY, folder, said  # noqa: F401 -- a fixture

BENCH = ["bench", "--rule", "delta", "--tokens", "8", "--device", "cpu", "--width", "8", "--seconds", "0.001"]


def test_an_option_s_mistake_in_a_file_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_text("seed = 1\n[optimizer]\nlr = -1\n")
    status, _, err = said(capsys, ["build", "c.toml"])
    assert (status, err) == (2, ["c.toml:2: optimizer.lr = -1.0; expected a finite number >= 0"])
