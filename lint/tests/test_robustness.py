"""Nothing that a file contains may stop the run, crash it, or be executed."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from hecate_lint.cli import main

from . import horrors

GOOD = "model.gradient_checkpointing_enable()\n"
HERE = Path(__file__).resolve().parent.parent
LIBRARY = [Path(path) for path in sorted(HERE.glob("src/hecate_lint/**/*.py"))]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "hecate_lint", "--no-cache", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, timeout=400, check=False)


def mutated(text: bytes, draw: random.Random) -> bytes:
    """A Python file with one to five small wounds."""
    data = bytearray(text)
    for _ in range(draw.randint(1, 5)):
        at, length = draw.randrange(max(1, len(data))), draw.randint(1, 12)
        kind = draw.randrange(6)
        if kind == 0:
            del data[at : at + length]
        elif kind == 1:
            data[at:at] = bytes(draw.randrange(256) for _ in range(length))
        elif kind == 2:
            data[at:at] = draw.choice(
                [b"(", b")", b"[", b"{", b"'", b'"""', b"\n", b"\t", b":", b"\\", b"#", b"lambda "]
            )
        elif kind == 3:
            data[at : at + length] = data[at : at + length] * 3
        elif kind == 4:
            data = data[:at]
        else:
            other = draw.randrange(max(1, len(data)))
            data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
    return bytes(data)


def lint_mutants(folder: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    sources = [path.read_bytes()[:20_000] for path in LIBRARY]
    for number in range(count):
        (folder / f"m{number:05}.py").write_bytes(mutated(draw.choice(sources), draw))
    (folder / "zz_good.py").write_text(GOOD)
    done = run("--select", "all", "--format", "github", ".", cwd=folder)
    out = done.stdout.decode()
    assert done.returncode == 1, done.stderr
    assert done.stderr == b""
    assert "HL-12" not in out
    assert "HL-11" not in out
    assert "file=zz_good.py,line=1" in out


def test_500_mutated_files_are_linted_or_refused_in_one_line(tmp_path: Path) -> None:
    lint_mutants(tmp_path, 500, seed=1)


@pytest.mark.soak
def test_10000_mutated_files_are_linted_or_refused_in_one_line(tmp_path: Path) -> None:
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        lint_mutants(folder, 500, seed=100 + seed)


@pytest.mark.parametrize("filters", [[], ["-W", "error"]])
def test_what_python_only_warns_of_is_read_in_silence(tmp_path: Path, filters: list[str]) -> None:
    (tmp_path / "warned.py").write_text('x = 1if True else 2\ny = "\\d"\nz = 0xfor 2\nassert (1, "x")\n"a" is "a"\n')
    command = [sys.executable, *filters, "-m", "hecate_lint", "--no-cache", "warned.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done.stdout


def test_every_horror_is_one_line_and_the_others_are_still_linted(tmp_path: Path) -> None:
    names = horrors.make(tmp_path)
    assert len(names) + 8 >= 60
    (tmp_path / "a_good.py").write_text(GOOD)
    (tmp_path / "zz_good.py").write_text(GOOD)
    done = run("--select", "all", "--ignore", "CS-13", ".", cwd=tmp_path)
    out = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 1, done.stderr
    assert b"Traceback" not in done.stderr + done.stdout
    assert done.stderr == b""
    for name in ("a_good.py", "zz_good.py"):
        assert f"{name}:1:1: warn CS-42" in out
    heads = [line for line in out.splitlines() if " error HL-1" in line]
    for name in [*names, "pipe.py", "loop.py", "dangling.py", "device.py"]:
        assert sum(line.startswith(f"{name}:") for line in heads) <= 1, name
    for name in ("nul.py", "bad_cookie.py", "utf16_le.py", "lone_surrogate.py", "python2_print.py", "deep_parens.py"):
        assert any(line.startswith(f"{name}:") for line in heads), name
    for name in ("pipe.py", "loop.py", "dangling.py", "device.py", "sum_50000.py", "parens_1500.py"):
        assert any(line.startswith(f"{name}:") for line in heads), name
    assert "HL-12" not in out


CANARY = """
import os, sys, pathlib
pathlib.Path({marker!r}).write_text("executed")
raise SystemExit("executed")
"""


def test_nothing_that_is_linted_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = tmp_path / "executed"
    package = tmp_path / "canary"
    package.mkdir()
    code = CANARY.format(marker=str(marker))
    for name in ("__init__.py", "plugin.py", "conftest.py", "setup.py", "sitecustomize.py", "hecate_components.py"):
        (package / name).write_text(
            code + "\ndef hecate_components():\n    return [('rule', 'x', 'canary.plugin:X')]\n"
        )
    (tmp_path / "pyproject.toml").write_text("[tool.hecate.lint]\n")
    done = run("--select", "all", "canary", cwd=tmp_path)
    assert done.returncode == 1
    assert not marker.exists()
    assert main(["--no-cache", str(package)]) == 1
    capsys.readouterr()
    assert not marker.exists()
    assert "canary" not in sys.modules
