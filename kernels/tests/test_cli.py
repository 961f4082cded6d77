"""`hecate kernels`: a line per check, one line per error, exit status by what was found."""

from pathlib import Path

import pytest
from hecate_kernels.cli import find_pairs, main

from hecate_core.api import registry

RAMP = Path(__file__).with_name("ramp.py")


def test_checking_a_strangers_file_prints_a_line_per_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(RAMP)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["numbers", "address", "race", "compile"]
    assert all(line.split()[2] == "ok" for line in lines)


def test_a_fault_is_a_line_and_status_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ramp.py").write_text(RAMP.read_text())
    source = RAMP.with_suffix(".cu").read_text()
    (tmp_path / "ramp.cu").write_text(source.replace("g * y[row + t - 1]", "-g * y[row + t - 1]"))
    assert main(["check", str(tmp_path / "ramp.py")]) == 1
    out = capsys.readouterr().out
    assert f"FAULT  {tmp_path}/ramp.cu:1: d_keep is off by" in out


def test_a_bare_source_is_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "k.cu"
    source.write_text('#include "hecate_device.cuh"\nextern "C" __global__ void k(float* x) {\n    *x = 1.0f;\n}\n')
    assert main(["check", str(source)]) == 0
    source.write_text(source.read_text().replace("1.0f", "one"))
    assert main(["check", str(source)]) == 1
    out = capsys.readouterr().out
    assert "host: k" in out
    assert f"{source}:3: 'one' was not declared in this scope (g++)" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["chek"], "invalid choice: 'chek'"),
        (["check", "afine-host"], 'kernel pair "afine-host" is not installed; did you mean "affine-host"?'),
        (["check", "nowhere.py"], "nowhere.py: no such file"),
        (["compile", "--arch", "sm_90"], '--arch: "sm_90" is not supported; did you mean "sm_90a"?'),
    ],
)
def test_wrong_input_is_one_line_and_status_two(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_plugin_that_raises_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.py").write_text("raise RuntimeError('boom')\n")
    assert main(["check", str(tmp_path / "bad.py")]) == 2
    assert capsys.readouterr().err == f"{tmp_path}/bad.py: RuntimeError: boom\n"


def test_the_registry_lists_every_op_once() -> None:
    ops = ["affine", "affine_column", "decayed_linear"]
    assert sorted(find_pairs(["hecate-kernels"])) == ops
    everyone = {
        pair.op for name in registry().names("pair") if hasattr(pair := registry().create("pair", name), "trials")
    }
    assert sorted(find_pairs([])) == sorted(everyone)
