"""What a kernel, a compiler or the disk does to the tools is one line; what could not be checked is no success."""

import errno
import os
import re
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hecate_kernels import cache, child, cpu_build
from hecate_kernels.check import check_pair
from hecate_kernels.failure import KernelError, MachineError
from hecate_kernels.host import ProgramLauncher
from hecate_kernels.nvrtc import ProgramCache
from hecate_kernels.pair import InOut, Kernel
from hecate_kernels.resources import compiled_for
from ramp import RampPair

from hecate_core.api import ExitCode

RUDE = """#include "hecate_device.cuh"
#include <unistd.h>
#include <stdio.h>
extern "C" __global__ void rude(float* x, int how) {
    if (how == 0) _exit(0);
    if (how == 1) { printf("done\\n"); fflush(stdout); _exit(5); }
    while (how == 2) puts("and on and on and on and on and on and on and on and on and on and on and on and on");
    *x = 1.0f;
}
"""


@pytest.mark.usefixtures("scratch_builds")
def test_kernels_that_leave_or_talk_without_end_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MOST_PRINTED", 1 << 20)
    source = tmp_path / "rude.cu"
    source.write_text(RUDE)
    told = [
        "rude ended the program before its results were written; a kernel returns, it does not exit",
        "rude ended the program with status 5; a kernel returns, it does not exit",
        "rude printed more than 1 MiB and was stopped",
    ]
    for how, text in enumerate(told):
        with pytest.raises(KernelError) as found:
            ProgramLauncher("plain", ("ascending",)).launch(
                Kernel(source, "rude"), (1, 1, 1), (1, 1, 1), [InOut(torch.zeros(1)), np.int32(how)]
            )
        assert str(found.value) == f"{source}:1: {text}"


def _is_gone(pid: int) -> bool:
    """Whether a process has ended; what was killed may still be ending."""
    try:
        gone = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
    time.sleep(0 if gone else 0.02)
    return gone


def test_nobody_waits_for_what_a_child_leaves_behind() -> None:
    finished = child.run(["sh", "-c", "sleep 60 & echo $!"], child.Limits(wall_s=30))
    assert finished.status == 0
    assert any(_is_gone(int(finished.text)) for _ in range(200))
    closed = child.run(["sh", "-c", "exec >&- 2>&-; sleep 60"], child.Limits(wall_s=1))
    assert (closed.status, closed.excess) == (None, "ran longer than 1 s")


def test_a_narrower_limit_of_this_process_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 29, 1 << 29))
    finished = child.run(["sh", "-c", "ulimit -f; ulimit -v"], child.Limits())
    assert finished.text.split() == ["1048576", "524288"]


def test_a_child_that_cannot_be_started_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EAGAIN, "no")

    monkeypatch.setattr(child.subprocess, "Popen", refuse)
    with pytest.raises(MachineError, match=r"^g: Resource temporarily unavailable; a process has to be started$"):
        child.run(["g"], child.Limits())


@pytest.mark.parametrize(
    ("compiler", "told"),
    [
        (
            "true",
            "true is no C++ compiler (asked for its macros, it ended with status 0 and named no macro); install g++",
        ),
        (
            "false",
            "false is no C++ compiler (asked for its macros, it ended with status 1 and named no macro); install g++",
        ),
        ("yes", "yes is no C++ compiler (asked for its macros, it "),
        ("/nowhere/g++", 'no C++ compiler "/nowhere/g++"; install g++ (or set CXX), or use backend = "reference"'),
    ],
)
def test_a_compiler_that_is_none_is_named(compiler: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MOST_PRINTED", 1 << 20)
    monkeypatch.setenv("CXX", shutil.which(compiler) or compiler)
    cpu_build._version.cache_clear()
    lines = list(check_pair("ramp", RampPair(), checks=("numbers", "address")))
    assert [line.status for line in lines] == [ExitCode.WRONG_INPUT] * 2
    assert all(told in line.text and "\n" not in line.text for line in lines), lines


def _compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    """A compiler that answers for itself, and otherwise does what it is given to do."""
    script = folder / "cxx"
    script.write_text(f'#!/bin/sh\ncase "$*" in *-dM*) echo "#define __cplusplus 201703L";; *) {does};; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("HECATE_KERNEL_CACHE", str(folder / "builds"))


@pytest.mark.parametrize(
    ("does", "status", "told"),
    [
        ("exit 0", ExitCode.WRONG_INPUT, "cxx ended with status 0, made nothing and said nothing; install g++"),
        ("exit 1", ExitCode.WRONG_INPUT, "cxx ended with status 1, made nothing and said nothing; install g++"),
        ("yes", ExitCode.FOUND, "compiling printed more than 1 MiB and was stopped (cxx)"),
        ("echo 'cc1plus: out of sorts'; exit 1", ExitCode.FOUND, ":1: cc1plus: out of sorts (cxx)"),
        ("echo 'as: No space left on device'; exit 1", ExitCode.UNREADABLE, "No space left on device (cxx); make room"),
        (
            "echo '/usr/bin/ld: cannot find -ltsan: No such file or directory'; exit 1",
            ExitCode.WRONG_INPUT,
            'backend "host": /usr/bin/ld: cannot find -ltsan: No such file or directory (cxx); install what it names',
        ),
        ("kill -XFSZ $$", ExitCode.UNREADABLE, "File too large (cxx); make room, or raise the limit on files"),
    ],
)
def test_a_compiler_that_fails_is_told_from_a_source_that_does(
    does: str, status: ExitCode, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "MOST_PRINTED", 1 << 20)
    _compiler(tmp_path, monkeypatch, does)
    lines = list(check_pair("ramp", RampPair(), checks=("numbers", "numbers")))
    assert [line.status for line in lines] == [status] * 2
    assert all(told in line.text and "\n" not in line.text for line in lines), lines


def _file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


@pytest.mark.parametrize("make", [_file, _pipe, lambda folder: _file(folder) / "below", lambda _: Path("/proc/none")])
def test_a_cache_that_is_no_folder_is_one_line(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make(tmp_path)
    monkeypatch.setenv("HECATE_KERNEL_CACHE", str(place))
    for line in check_pair("ramp", RampPair(), checks=("numbers", "address")):
        assert line.status == ExitCode.UNREADABLE
        told = rf"{place}: [^;]+; set HECATE_KERNEL_CACHE to a folder that can be written"
        assert re.fullmatch(told, line.text) or "addresses is limited" in line.text or "address space" in line.text
    with pytest.raises(MachineError, match=r"; set HECATE_KERNEL_CACHE to a folder that can be written$"):
        ProgramCache()


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_cache_that_cannot_be_written_is_one_line(
    reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(made: Path, place: Path) -> None:
        place.write_bytes(b"half")
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setenv("HECATE_KERNEL_CACHE", str(tmp_path))
    monkeypatch.setattr(cache.shutil, "copy", refuse)
    made = tmp_path / "made"
    made.write_text("x")
    with pytest.raises(
        MachineError, match=f"^{tmp_path}/k: {os.strerror(reason)}; set HECATE_KERNEL_CACHE to a folder"
    ):
        cache.publish(made, tmp_path / "k")
    assert {one.name for one in tmp_path.iterdir()} == {"made", "seal"}  # no half of anything


def test_only_whole_regular_entries_are_read(tmp_path: Path) -> None:
    def there(name: str) -> Path:
        (tmp_path / "made").write_text(name)
        cache.publish(tmp_path / "made", tmp_path / name)
        assert cache.is_whole(tmp_path / name)
        return tmp_path / name

    for number, broken in enumerate(("", ".seal", "", ".seal")):
        entry = there(f"e{number}")
        damaged = entry.with_name(entry.name + broken)
        damaged.unlink()
        os.mkfifo(damaged) if number < 2 else damaged.mkdir()  # opening a pipe would never return
        assert not cache.is_whole(entry)
    foreign = there("first")
    shutil.copy(foreign.with_name("first.seal"), there("second").with_name("second.seal"))
    assert not cache.is_whole(tmp_path / "second")


def test_a_limit_on_files_is_told_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HECATE_KERNEL_CACHE", str(tmp_path / "builds"))
    held = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, held[1]))
    try:
        (line,) = check_pair("ramp", RampPair(), checks=("compile",))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, held)
    assert line.status == ExitCode.UNREADABLE
    assert re.fullmatch(r"/\S+: File too large; raise the limit on files \(ulimit -f\)", line.text)


def test_a_compiler_that_hangs_or_dies_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(RampPair().kernels.source, "ramp_forward")
    for finished, told in [
        (child.Finished(-14, ""), "the compiler took longer than 120 s and was stopped"),
        (
            child.Finished(1, "Traceback\nImportError: no cuda.core\n"),
            "ended with status 1 (ImportError: no cuda.core)",
        ),
        (child.Finished(None, "", "printed more than 64 MiB"), "the compiler printed more than 64 MiB"),
    ]:
        monkeypatch.setattr(child, "run", lambda *given, finished=finished: finished)
        with pytest.raises(KernelError, match=re.escape(told)):
            list(compiled_for("sm_80", [kernel]))
