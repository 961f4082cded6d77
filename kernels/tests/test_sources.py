"""Sources as CUDA lets them be written, the names of their kernels, and the places that compilers name."""

# ruff: noqa: E501
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hecate_kernels.bare import check_source, entry_points, source_report
from hecate_kernels.check import check_pair
from hecate_kernels.failure import KernelError, compiler_line, sanitizer_line
from hecate_kernels.nvrtc_worker import parse_report
from hecate_kernels.pair import Kernel
from hecate_kernels.resources import demand_compiled
from ramp import RampPair

from hecate_core.api import ExitCode


def test_places_with_spaces_keep_their_lines() -> None:
    source = Path("/a b/my k.cu")
    gcc = "In file included from x\n/a b/my k.cu:12:5: error: 'q' was not declared\n"
    assert compiler_line(gcc, source, "g++") == "/a b/my k.cu:12: 'q' was not declared (g++)"
    nvrtc = '6: NVRTC_ERROR_COMPILATION\n/a b/my k.cu(12): error: identifier "q" is undefined\n'
    assert compiler_line(nvrtc, source, "nvrtc") == '/a b/my k.cu:12: identifier "q" is undefined (nvrtc)'
    asan = (
        "==1==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x60 at pc\nWRITE of size 4 at 0x60\n"
        "    #0 0x4f in k(float*) /a b/my k.cu:7\n    #1 0x5a in main /x/main.cpp:9\n"
    )
    assert sanitizer_line(asan, source) == "/a b/my k.cu:7: heap-buffer-overflow"
    tsan = (
        "WARNING: ThreadSanitizer: data race (pid=1)\n  Write of size 4 at 0x7b by thread T1:\n"
        "    #0 k(float*) /a b/my k.cu:9 (x+0x1)\n\n  Previous read of size 4 by thread T2:\n"
        "    #0 k(float*) /a b/my k.cu:11 (x+0x2)\n"
    )
    assert sanitizer_line(tsan, source) == "/a b/my k.cu:9: data race with line 11"


@pytest.mark.parametrize(
    ("log", "text"),
    [
        ("\nptxas fatal   : Unresolved extern function 'foo'\n", "ptxas fatal : Unresolved extern function 'foo'"),
        (
            "ptxas info    : 0 bytes gmem\n ptxas error   : Entry function 'k' uses too much shared data (0x445c0 bytes)\n",
            "ptxas error : Entry function 'k' uses too much shared data (0x445c0 bytes)",
        ),
        (
            "6: NVRTC_ERROR_COMPILATION, compilation log:\n\nAt end of source: error: expected a \"}\"\nk.cu(2): note: to\n",
            'At end of source: error: expected a "}"',
        ),
        (
            "ptxas application ptx input, line 25; error   : Not a name of any known instruction: 'x'\n"
            "ptxas fatal   : Ptx assembly aborted due to errors\n",
            "ptxas application ptx input, line 25; error : Not a name of any known instruction: 'x'",
        ),
        ("", "no message"),
    ],
)  # fmt: skip
def test_errors_without_a_place_keep_their_text(log: str, text: str) -> None:
    assert compiler_line(log, Path("k.cu"), "nvrtc") == f"k.cu:1: {text} (nvrtc)"


def test_a_kernel_that_is_not_there_under_its_name_is_no_pass() -> None:
    log = "ptxas info    : Compiling entry function '_Z1kPf' for 'sm_80'\nUsed 8 registers\n"
    compiled, kernel = parse_report(log, "k"), Kernel(Path("k.cu"), "k")
    assert (compiled.entry, compiled.registers) == ("_Z1kPf", 8)
    demand_compiled(kernel, "sm_80", compiled, by_name=False)
    with pytest.raises(
        KernelError, match=r'^k\.cu:1: no kernel "k", but _Z1kPf; expected extern "C" __global__ void k'
    ):
        demand_compiled(kernel, "sm_80", compiled)
    with pytest.raises(KernelError, match=r'^k\.cu:1: no kernel "other"; expected extern "C"'):
        demand_compiled(Kernel(Path("k.cu"), "other"), "sm_80", parse_report(log, "other"), by_name=False)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('extern "C" __global__ void a(int x) {}', ["a"]),
        ('extern "C" __global__ __launch_bounds__(128) void a() {}', ["a"]),
        ('extern "C" __global__ void __launch_bounds__((64), 2) a() {}', ["a"]),
        ("__global__ __launch_bounds__(128) void a() {}\nstatic __global__ void b() {}", ["a", "b"]),
        ('extern "C" {\n__global__ void\na(int x) {}\n__global__ static void b() {}\n}', ["a", "b"]),
        ("// __global__ void old() {}\n/* __global__ void older() {} */ __global__ void a() {}", ["a"]),
        ("template <int N> __global__ void wide() {}\n__global__ void a() { }", ["a"]),
        ('/*\n#include "nothing.h"\n*/\n__global__ void a() {}', ["a"]),
        ('#include "beside.cuh"\n__global__ void a() {}', ["a", "b"]),
    ],
)
def test_kernels_are_found_as_cuda_lets_them_be_written(text: str, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "beside.cuh").write_text('#pragma once\n#include "k.cu"\n__global__ void b() {}')
    (tmp_path / "k.cu").write_text(text)
    assert [kernel.symbol for kernel in entry_points(tmp_path / "k.cu")] == names


@pytest.mark.usefixtures("scratch_builds")
def test_a_legal_source_in_a_folder_with_a_space_is_built(tmp_path: Path) -> None:
    folder = tmp_path / "my kernels"
    folder.mkdir()
    source = folder / "k.cu"
    source.write_text(
        '/* not\n#include "here.cuh"\n*/ #include "hecate_device.cuh" /* nor\n#include "there.cuh" */\n#if 0\n'
        '#include "elsewhere.cuh"\n#endif\nextern "C" {\n__global__ __launch_bounds__(32) void k(float* x) { *x = 1; }\n}\n'
    )
    (line,) = check_source("k.cu", source, ("build",))
    assert line.text == "host: k"
    ((_, _, compiled, use),) = source_report(source, ["sm_80"])
    assert (compiled.entry, compiled.failed, use.dynamic) == ("k", False, None)
    source.write_text(source.read_text().replace("#if 0", "#if 1"))
    (line,) = check_source("k.cu", source, ("build",))
    assert line.status == ExitCode.FOUND
    assert line.text.startswith(f"{source}:6: ")
    assert '"elsewhere.cuh" is neither beside this file nor a device header' in line.text


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.write_bytes(b""), 'no kernel; expected extern "C" __global__ void NAME(...)'),
        (lambda path: path.write_bytes(b"\x7fELF\xff\xfe"), "cannot be read (no UTF-8 text); expected CUDA source"),
        (lambda path: path.mkdir(), "cannot be read (no regular file); expected CUDA source"),
        (os.mkfifo, "cannot be read (no regular file); expected CUDA source"),
        (lambda path: path.symlink_to("/dev/zero"), "cannot be read (no regular file); expected CUDA source"),
    ],
)
def test_a_source_that_is_none_is_one_line(make: Callable[[Path], Any], told: str, tmp_path: Path) -> None:
    source = tmp_path / "k.cu"
    make(source)
    for line in [
        *check_source("k.cu", source, ("build", "compile")),
        *check_pair("ramp", RampPair(source), checks=("compile",)),
    ]:
        assert line.status == ExitCode.FOUND
        assert line.text.startswith(f"{source}:1: ")
        assert told in line.text or "no kernel" in line.text
