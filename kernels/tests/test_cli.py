"""`hecate kernels`: a line per check, one line per error, exit status by what was found."""

from pathlib import Path

import pytest
from hecate_kernels import child, cli, resources
from hecate_kernels.cli import main
from hecate_kernels.failure import BackendMissingError
from hecate_kernels.finding import find_pairs, subjects

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
    assert main(["check", str(tmp_path / "ramp.py"), "--only", "numbers"]) == 1
    out = capsys.readouterr().out
    assert f"FAULT    {tmp_path}/ramp.cu:1: d_keep is off by" in out


def test_a_bare_source_is_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "k.cu"
    source.write_text('#include "hecate_device.cuh"\nextern "C" __global__ void k(float* x) {\n    *x = 1.0f;\n}\n')
    assert main(["check", str(source), "--only", "build"]) == 0
    source.write_text(source.read_text().replace("1.0f", "one"))
    assert main(["check", str(source), "--only", "build"]) == 1
    out = capsys.readouterr().out
    assert "host: k" in out
    assert f"{source}:3: 'one' was not declared in this scope (g++)" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["chek"], "invalid choice: 'chek'"),
        (["check", "afine-host"], 'kernel pair "afine-host" is not installed; did you mean "affine-host"?'),
        (["check", "nowhere.py"], "nowhere.py: no such file; expected a Python file with pair classes"),
        (["compile", "nowhere.cu"], "nowhere.cu: no such file; expected CUDA source"),
        (["check", "no/where"], "no/where: no such folder; expected a pair, a distribution, a folder, a .py or a .cu"),
        (["check", "lattice-reference"], '"lattice-reference" brings no kernels to check, such as plain torch'),
        (["check", "affine", "--only", "adress"], '--only: no check "adress"; did you mean "address"?'),
        (["check", str(RAMP), "--only", "build"], "--only: build is no check of what is given"),
        (["check", "affine", "--seconds", "0"], "--seconds: 0; expected 1 to 86400"),
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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\nraise RuntimeError('boom\\nbang')\n", ":2: importing bad.py raised RuntimeError: boom bang; expected"),
        ("import sys\nsys.exit(0)\n", ":2: importing bad.py called sys.exit(0); expected"),
        ("def (\n", ":1: importing bad.py raised SyntaxError: invalid syntax"),
        (
            "class P:\n    trials = kernels = 1\n",
            ":1: P cannot be made: it raised TypeError: kernels is int; expected a",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line_and_the_rest_is_checked(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text(text)
    (tmp_path / "empty.cu").write_text("")
    assert main(["check", str(tmp_path / "bad.py"), str(RAMP), "--only", "numbers"]) == 3
    load, numbers = capsys.readouterr().out.splitlines()
    assert load.split()[1:4] == ["load", "NOT", "RUN"]
    assert f"{tmp_path}/bad.py{told}" in load
    assert numbers.split()[1:3] == ["numbers", "ok"]
    assert main(["check", str(tmp_path / "bad.py"), str(tmp_path / "empty.cu"), "--only", "build"]) == 1


def test_sys_exit_inside_a_pair_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "leaves.py"
    text = RAMP.read_text().replace("        for length in", "        raise SystemExit(0)\n        for length in")
    path.write_text(text)
    assert main(["check", str(path), "--only", "numbers,race"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines] == [["numbers", "FAULT"], ["race", "FAULT"]]
    line = text.splitlines().index("        raise SystemExit(0)") + 1
    assert f"{path}:{line}: trials() called sys.exit(0); expected an iterable of Trial" in lines[0]


def test_a_check_that_cannot_run_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["check", str(RAMP), "--only", "numbers,address,race"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:4] for line in lines] == [[one, "NOT", "RUN"] for one in ("numbers", "address", "race")]
    for line in lines:
        assert 'no C++ compiler "no-such-compiler"; install g++ (or set CXX), or' in line
        assert line.endswith("; --only CHECK,... leaves it out")

    def without() -> None:
        raise BackendMissingError("no NVRTC; install it")

    monkeypatch.setattr(resources, "require_compiler", without)
    assert main(["check", str(RAMP), "--only", "compile"]) == 2
    assert " NOT RUN  no NVRTC; install it; --only " in capsys.readouterr().out


def test_a_folder_means_its_pairs_and_the_sources_that_none_of_them_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ramp.py", "ramp.cu"):
        (tmp_path / name).write_text(RAMP.with_name(name).read_text())
    (tmp_path / "notes.py").write_text("raise RuntimeError('nobody asked')\n")
    (tmp_path / "test_mine.py").write_text("import hecate_kernels\nraise RuntimeError('a test')\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "bare.cu").write_text("int nothing;\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "old.cu").write_text("")
    found = subjects([str(tmp_path)])
    assert [(one.name, one.pair is None) for one in found] == [("RampPair", False), ("more/bare.cu", True)]
    assert main(["check", str(tmp_path), "--only", "build"]) == 1
    assert f"FAULT    {tmp_path}/more/bare.cu:1: no kernel; expected" in capsys.readouterr().out
    assert main(["check", str(tmp_path / ".hidden")]) == 1
    (tmp_path / "none").mkdir()
    assert main(["check", str(tmp_path / "none")]) == 2
    assert f"{tmp_path}/none: no pair and no .cu in it; a pair is a class" in capsys.readouterr().err


def test_like_names_in_other_files_are_all_there_and_repeated_words_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(
            RAMP.read_text().replace('__file__).with_name("ramp.cu")', f'"{RAMP}")')
        )
        (tmp_path / name / "bad.py").write_text("raise RuntimeError")
    words = [str(tmp_path / name) for name in ("a/mine.py", "b/mine.py", "a/mine.py", "a/bad.py", "b/bad.py")]
    assert [one.name for one in subjects(words)] == ["RampPair", "RampPair", "bad.py", "bad.py"]
    assert [one.name for one in subjects(["affine-host", "affine-nvrtc", "hecate-kernels"])][:1] == ["affine"]
    assert len(subjects(["affine-host", "affine-nvrtc", "affine"])) == 1


def test_a_folder_of_a_plugin_means_its_installed_pairs() -> None:
    found = subjects([str(Path(__file__).parents[2] / "plugins" / "lattice")])
    assert [one.name for one in found] == ["lattice"]


def test_files_of_a_package_import_each_other(tmp_path: Path) -> None:
    package = tmp_path / "hecate_told_apart"
    package.mkdir()
    for name in ("__init__.py", "base.py"):
        (package / name).write_text("" if name.startswith("_") else RAMP.read_text())
    (package / "mine.py").write_text("from .base import RampPair\n\n\nclass Mine(RampPair):\n    pass\n")
    assert [one.name for one in subjects([str(package / "mine.py")])] == ["Mine"]


def test_compiling_a_bare_source_prints_what_it_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "k.cu"
    source.write_text("__global__ __launch_bounds__(128) void k(float* x) {\n    *x = 1.0f;\n}\n")
    assert main(["compile", str(source), "--arch", "sm_80"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["kernel", "arch", "registers", "spills", "shared", "static", "+", "dynamic", "budget"]
    assert row.split()[:2] == ["k.cu:k", "sm_80"]
    assert row.split()[3:] == ["0", "0", "0", "+", "?", "no", "pair", "declares", "one"]
    source.write_text("__global__ void k(float* x) { *x = one; }\n")
    assert main(["compile", str(source), str(RAMP), "--arch", "sm_80"]) == 1
    _, wrong, forward, backward = capsys.readouterr().out.splitlines()
    assert f'{source}:1: identifier "one" is undefined (nvrtc, sm_80)' in wrong
    assert forward.split()[3:] == ["31/64", "0/0", "512/49152", "0", "+", "512", "within"]
    assert backward.split()[-4:] == ["0", "+", "512", "within"]


def test_shared_memory_beyond_the_budget_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stingy = RAMP.read_text().replace(
        '"ramp_forward": Budget(registers=64)', '"ramp_forward": Budget(shared_bytes=511)'
    )
    (tmp_path / "ramp.py").write_text(stingy)
    (tmp_path / "ramp.cu").write_text(RAMP.with_suffix(".cu").read_text())
    assert main(["compile", str(tmp_path / "ramp.py"), "--arch", "sm_80"]) == 1
    _, forward, backward = capsys.readouterr().out.splitlines()
    assert forward.endswith("OVER: 512 bytes of shared memory (0 static, 512 dynamic); declared 511")
    assert backward.endswith("within")
    assert main(["check", str(tmp_path / "ramp.py"), "--only", "compile"]) == 1
    assert "ramp_forward THREADS=128 uses 512 bytes of shared memory (0 static, 512" in capsys.readouterr().out


def test_help_says_what_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("check", "compile"):
        assert main([command, "--help"]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert (
            "a pair or its op, a distribution, a folder, a .py with pairs or a .cu; default: every installed pair"
            in told
        )


def test_the_registry_lists_every_op_once() -> None:
    ops = ["affine", "affine_column", "decayed_linear"]
    assert sorted(find_pairs(["hecate-kernels"])) == ops
    everyone = {
        pair.op for name in registry().names("pair") if hasattr(pair := registry().create("pair", name), "trials")
    }
    assert sorted(find_pairs([])) == sorted(everyone)


@pytest.mark.parametrize(("words", "seconds"), [([], 60), (["--thorough"], 600), (["--thorough", "--seconds", "7"], 7)])
def test_a_launch_has_a_minute_unless_more_is_asked_for(
    words: list[str], seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[child.Limits] = []
    monkeypatch.setattr(cli, "check_pair", lambda *given: met.append(given[-1]) or [])
    assert main(["check", str(RAMP), *words]) == 2  # no check came of it
    assert [(limits.wall_s, limits.cpu_s) for limits in met] == [(seconds, seconds)]
