"""The host backend runs CUDA as written and names the line of what CUDA would not forgive."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import Fault
from hecate_kernels import child, cpu_build, host
from hecate_kernels.check import check_pair
from hecate_kernels.cpu_build import build
from hecate_kernels.failure import BackendMissingError, KernelError
from hecate_kernels.host import SCHEDULES, HostLauncher, ProgramLauncher
from hecate_kernels.pair import InOut, Kernel, Out
from ramp import RampPair

# ruff: noqa: E501
RAMP = Path(__file__).with_name("ramp.cu")
FAULTS = [
    Fault("barrier missing after the write", "        __syncthreads();\n        if (t < length)", "        if (t < length)"),
    Fault("barrier missing before the overwrite", "        carried = tile[THREADS - 1];\n        __syncthreads();",
          "        carried = tile[THREADS - 1];", found_by=("race",)),
    Fault("barrier missing before the overwrite, in a helper", "        a = a * ends[2 * i];\n    }\n    __syncthreads();",
          "        a = a * ends[2 * i];\n    }", found_by=("race",)),
    Fault("barrier missing in a helper", "    __syncthreads();\n    for (int i", "    for (int i", found_by=("race",)),
    Fault("write past dynamic shared memory", "tile[threadIdx.x] = a", "tile[threadIdx.x + 1] = a"),
    Fault("write past static shared memory", "    HECATE_ARENA(arena);",
          "    HECATE_SHARED(float, few, 4);\n    few[threadIdx.x / 25] = 0.0f;\n    HECATE_ARENA(arena);"),
    Fault("divergent barrier", "        __syncthreads();\n        if (t < length)",
          "        if (threadIdx.x < 64) __syncthreads();\n        if (t < length)"),
    Fault("barrier in both branches", "        __syncthreads();\n        if (t < length)",
          "        if (threadIdx.x < 64)\n __syncthreads();\n else\n __syncthreads();\n        if (t < length)"),
    Fault("wrong gradient sign", "g * y[row + t - 1]", "-g * y[row + t - 1]", found_by=("numbers",)),
    Fault("stale state", "carried = tile[THREADS - 1];", "carried += 0.0f;", found_by=("numbers",)),
    Fault("race between blocks", "y[row + t] = tile", "y[t] = tile", found_by=("numbers", "race")),
    Fault("write past an output", "y[row + t] = tile", "y[row + t + length] = tile", found_by=("numbers", "address")),
    Fault("shuffle from outside its mask", "__shfl_up_sync(0xFFFFFFFFu, a, offset)",
          "__shfl_sync(lane < 16 ? 0xFFFFu : 0xFFFF0000u, a, 20)"),
    Fault("lanes leave early", "    const long row", "    if (threadIdx.x == 7) return;\n    const long row"),
]  # fmt: skip


def _fault(pair: RampPair, check: str) -> str | None:
    (line,) = check_pair("ramp", pair, checks=(check,))
    if not line.ran:
        pytest.skip(line.text)
    return None if line.good else line.text


@pytest.mark.parametrize("check", ["numbers", "address", "race", "compile"])
def test_a_clean_pair_passes_every_check(check: str) -> None:
    assert _fault(RampPair(), check) is None


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_every_planted_fault_is_found_with_its_place(fault: Fault, tmp_path: Path) -> None:
    planted = RampPair(fault.plant(RAMP, tmp_path))
    found = {check: text for check in fault.found_by if (text := _fault(planted, check))}
    assert found, fault.kind
    assert all(text.startswith(str(tmp_path / "ramp.cu:")) for text in found.values()), found


def _lines_with(source: Path, text: str) -> list[int]:
    return [number for number, line in enumerate(source.read_text().splitlines(), 1) if text in line]


def test_a_race_names_both_lines(tmp_path: Path) -> None:
    planted = Fault("", "        __syncthreads();\n        if (t < length)", "        if (t < length)").plant(
        RAMP, tmp_path
    )
    text = _fault(RampPair(planted), "race")
    write = _lines_with(planted, "tile[threadIdx.x] = a")[0]
    read = _lines_with(planted, "carried = tile")[0]
    assert text is not None
    assert sorted(map(int, re.findall(r"(?:ramp.cu:|line )(\d+)", text))) == [write, read]


def test_racecheck_alone_sees_blocks_race(tmp_path: Path) -> None:
    planted = next(fault for fault in FAULTS if fault.kind == "race between blocks").plant(RAMP, tmp_path)
    assert "data race" in str(_fault(RampPair(planted), "race"))


def _racecheck_blocks(body: str, blocks: int, folder: Path) -> None:
    kernel, out = _kernel(folder, body), torch.zeros(blocks * 256)
    racecheck = ProgramLauncher("thread", ("ascending",), child.Limits(memory_mib=None))
    racecheck.launch(kernel, (blocks, 1, 1), (256, 1, 1), [InOut(out)])


@pytest.mark.parametrize("fence", ["", pytest.param(" __threadfence();", marks=pytest.mark.soak)])
def test_racecheck_takes_more_threads_than_thread_sanitizer_holds_fibers(fence: str, tmp_path: Path) -> None:
    """8,448 threads: with a fence each has an identity of its own, most of a millisecond's work."""
    _racecheck_blocks(f"out[blockIdx.x * 256 + threadIdx.x] = (float)blockIdx.x;{fence}", 33, tmp_path)


@pytest.mark.parametrize("body", ["out[blockIdx.x % 8 * 256 + threadIdx.x] = 1.0f;", "out[threadIdx.x % 64] = 1.0f;"])
def test_racecheck_compares_every_block_with_every_other_and_its_own_threads(body: str, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"k\.cu:3: data race with line 3"):
        _racecheck_blocks(body, 9, tmp_path)


def test_a_thread_of_a_later_block_is_compared_with_its_own_blocks_threads(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"k\.cu:3: data race with line 3"):
        _racecheck_blocks("if (blockIdx.x == 2) out[threadIdx.x / 2] = 1.0f;", 3, tmp_path)


def test_kernels_of_a_process_share_their_stacks(tmp_path: Path) -> None:
    """A process may hold 65,000 mappings; a stack takes two, and a model launches hundreds of kernels."""

    def launched(name: str) -> int:
        kernel, out = _kernel(tmp_path, f"out[threadIdx.x] = {name};"), torch.zeros(512)
        HostLauncher().launch(kernel, (1, 1, 1), (512, 1, 1), [Out(out)])
        assert bool((out == float(name)).all())
        return len(Path("/proc/self/maps").read_text().splitlines())

    first = launched("1")
    assert launched("2") < first + 512


def test_lines_are_right_after_a_branch_that_was_skipped(tmp_path: Path) -> None:
    (tmp_path / "more.cuh").write_text("// one\n// two\n")
    kernel = _kernel(tmp_path, '#if 0\n#include "more.cuh"\n#else\nout[0] = chnk;\n#endif')
    with pytest.raises(KernelError, match=r"k\.cu:6: 'chnk' was not declared"):
        HostLauncher().launch(kernel, (1, 1, 1), (1, 1, 1), [InOut(torch.zeros(1))])


def test_an_include_in_a_skipped_branch_is_not_used_up(tmp_path: Path) -> None:
    (tmp_path / "more.cuh").write_text("#pragma once\n#define MORE 2.0f\n")
    kernel = _kernel(tmp_path, '#if 0\n#include "more.cuh"\n#else\n#include "more.cuh"\n#endif\nout[0] = MORE;')
    out = torch.zeros(1)
    HostLauncher().launch(kernel, (1, 1, 1), (1, 1, 1), [Out(out)])
    assert out[0] == 2


@pytest.mark.parametrize("once", ["", "#pragma once\n"])
def test_includes_that_go_round_in_a_circle_end(once: str, tmp_path: Path) -> None:
    (tmp_path / "one.cuh").write_text(f'{once}#include "two.cuh"\n')
    (tmp_path / "two.cuh").write_text(f'{once}#include "one.cuh"\n')
    kernel = _kernel(tmp_path, '#include "one.cuh"\nout[0] = 1.0f;')
    if once:
        HostLauncher().launch(kernel, (1, 1, 1), (1, 1, 1), [Out(torch.zeros(1))])
        return
    with pytest.raises(KernelError, match=r"\.cuh:1: includes go round in a circle"):
        HostLauncher().launch(kernel, (1, 1, 1), (1, 1, 1), [Out(torch.zeros(1))])


def test_a_divergent_barrier_names_both_lines(tmp_path: Path) -> None:
    planted = next(fault for fault in FAULTS if fault.kind == "barrier in both branches").plant(RAMP, tmp_path)
    text = _fault(RampPair(planted), "numbers")
    assert text is not None
    found = re.search(r"divergent __syncthreads: line (\d+) vs (\d+) \(thread \d+\)", text)
    assert found is not None
    assert {int(found[1]), int(found[2])} < set(_lines_with(planted, "__syncthreads"))


def _kernel(tmp_path: Path, body: str, parameters: str = "float* out") -> Kernel:
    source = tmp_path / "k.cu"
    source.write_text(f'#include "hecate_device.cuh"\nextern "C" __global__ void k({parameters}) {{\n{body}\n}}\n')
    return Kernel(source, "k")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shuffles_votes_and_atomics_mean_what_cuda_says(schedule: str, tmp_path: Path) -> None:
    kernel = _kernel(
        tmp_path,
        """const int t = threadIdx.x;
        out[t] = __shfl_xor_sync(0xFFFFFFFFu, (float)t, 3);
        out[40 + t] = __shfl_up_sync(0xFFFFFFFFu, (float)t, 2, 8);
        if (t < 32) out[80 + t] = __shfl_down_sync(0xFFFFFFFFu, (float)t, 5);
        if (t % 2) out[120 + t] = (float)__popc(__ballot_sync(0xAAAAAAAAu, t < 10));
        atomicAdd(out + 160, 1.0f);""",
    )
    out = torch.zeros(161)
    HostLauncher(schedule).launch(kernel, (2, 1, 1), (40, 1, 1), [InOut(out)])
    t = torch.arange(40)
    inside = (t ^ 3).float()
    assert torch.equal(out[:40], inside)
    assert torch.equal(out[40:80], torch.where(t % 8 >= 2, t - 2, t).float())
    assert torch.equal(out[80:107], torch.arange(5, 32).float())
    assert out[121] == 5
    assert out[160] == 80


def test_shared_memory_is_poisoned_before_every_block(tmp_path: Path) -> None:
    kernel = _kernel(
        tmp_path,
        """HECATE_SHARED(float, kept, 4); HECATE_ARENA(a); HECATE_CARVE(a, float, tile, 4);
        out[blockIdx.x * 2] = kept[0]; out[blockIdx.x * 2 + 1] = tile[3]; kept[0] = tile[3] = 1.0f;""",
    )
    out = torch.zeros(6)
    HostLauncher().launch(kernel, (3, 1, 1), (1, 1, 1), [Out(out)], shared_bytes=128)
    assert out.isnan().all()


def test_a_copy_that_nobody_waits_for_leaves_poison(tmp_path: Path) -> None:
    body = """HECATE_SHARED(float, tile, 4);
        cp_async_16(tile, out); cp_async_commit(); {wait} out[4] = tile[1]; cp_async_wait<0>();"""
    out = torch.arange(8.0)
    HostLauncher().launch(_kernel(tmp_path, body.format(wait="")), (1, 1, 1), (1, 1, 1), [InOut(out)])
    assert out[4].isnan()
    waiting = _kernel(tmp_path, body.format(wait="cp_async_wait<0>();"))
    HostLauncher().launch(waiting, (1, 1, 1), (1, 1, 1), [InOut(out)])
    assert out[4] == 1


def test_a_copy_in_flight_at_the_end_is_refused(tmp_path: Path) -> None:
    kernel = _kernel(tmp_path, "HECATE_SHARED(float, tile, 4); cp_async_16(tile, out); cp_async_commit();")
    with pytest.raises(KernelError, match=r"k\.cu:3: cp\.async is never waited for"):
        HostLauncher().launch(kernel, (1, 1, 1), (1, 1, 1), [InOut(torch.zeros(4))])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_mma_and_ldmatrix_multiply_a_tile(half: bool, transposed: bool, tmp_path: Path) -> None:
    loads = "ldmatrix_x2(fb, b + lane % 8 * 24 + lane / 8 % 2 * 8);"
    if transposed:
        loads = "ldmatrix_x2_trans(fb, b + lane % 16 * 8);"
    name = "mma_f16" if half else "mma_bf16"
    kernel = _kernel(
        tmp_path,
        f"""const int lane = threadIdx.x;
        HECATE_SHARED(unsigned short, a, 16 * 24); HECATE_SHARED(unsigned short, b, 16 * 24);
        for (int i = lane; i < 256; i += 32) a[i / 16 * 24 + i % 16] = ga[i];
        for (int i = lane; i < 128; i += 32) {"b[i]" if transposed else "b[i % 8 * 24 + i / 8]"} = gb[i];
        __syncwarp();
        unsigned fa[4], fb[2]; float d[4] = {{0.5f, 0.5f, 0.5f, 0.5f}};
        ldmatrix_x4(fa, a + lane % 16 * 24 + lane / 16 * 8);
        {loads}
        {name}(d, fa, fb);
        for (int i = 0; i < 4; ++i) out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];""",
        "const unsigned short* ga, const unsigned short* gb, float* out",
    )
    dtype = torch.float16 if half else torch.bfloat16
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(16, 16, generator=generator).to(dtype), torch.randn(16, 8, generator=generator).to(dtype)
    out = torch.empty(16, 8)
    HostLauncher().launch(kernel, (1, 1, 1), (32, 1, 1), [a, b, Out(out)])
    assert torch.allclose(out, a.float() @ b.float() + 0.5, atol=1e-5)


def test_sixteen_bit_numbers_round_as_torch_does(tmp_path: Path) -> None:
    kernel = _kernel(
        tmp_path,
        "const int t = blockIdx.x; b[t] = from_float<bf16>(x[t]); h[t] = from_float<f16>(x[t]); back[t] = to_float(h[t]);",
        "const float* x, bf16* b, f16* h, float* back",
    )
    x = torch.cat(
        (torch.randn(200), torch.randn(200) * 1e-6, torch.randn(50) * 1e5, torch.tensor([0.0, -0.0, torch.inf]))
    )
    b, h, back = torch.empty(453, dtype=torch.bfloat16), torch.empty(453, dtype=torch.float16), torch.empty(453)
    HostLauncher().launch(kernel, (453, 1, 1), (1, 1, 1), [x, Out(b), Out(h), Out(back)])
    assert torch.equal(b, x.bfloat16())
    assert torch.equal(h, x.half())
    assert torch.equal(back, x.half().float())


def test_runaway_kernels_are_stopped(tmp_path: Path) -> None:
    kernel = _kernel(tmp_path, "while (out[0] == 0.0f) __syncthreads();")
    launcher = ProgramLauncher("plain", ("ascending",), child.Limits(wall_s=2, cpu_s=2))
    with pytest.raises(KernelError, match="ran longer than 2 s"):
        launcher.launch(kernel, (1, 1, 1), (1, 1, 1), [InOut(torch.zeros(1))])


def test_a_write_into_an_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="writes into argument 0, which is an input"):
        ProgramLauncher().launch(_kernel(tmp_path, "out[0] = 3.0f;"), (1, 1, 1), (1, 1, 1), [torch.zeros(1)])


def test_more_shared_memory_than_the_launch_gives_is_refused(tmp_path: Path) -> None:
    kernel = _kernel(tmp_path, "HECATE_ARENA(a); HECATE_CARVE(a, float, tile, 33); tile[0] = 1.0f;")
    with pytest.raises(KernelError, match=r'"tile" ends at byte 256 of dynamic shared memory; the launch gives 128'):
        HostLauncher().launch(kernel, (1, 1, 1), (1, 1, 1), [InOut(torch.zeros(1))], 128)


def test_bare_numbers_have_no_width(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="has no width"):
        HostLauncher().launch(_kernel(tmp_path, ""), (1, 1, 1), (1, 1, 1), [3])


def test_compiler_errors_name_the_line(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"k\.cu:3: 'chnk' was not declared in this scope"):
        HostLauncher().launch(_kernel(tmp_path, "out[0] = chnk;"), (1, 1, 1), (1, 1, 1), [np.int32(1)])


def test_no_compiler_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ValueError, match=r'no C\+\+ compiler "no-such-compiler"; install g\+\+ .* backend = "reference"'
    ):
        HostLauncher().launch(_kernel(tmp_path, ""), (1, 1, 1), (1, 1, 1), [])


@pytest.mark.parametrize(("machine", "system"), [("aarch64", "Linux"), ("x86_64", "Darwin")])
def test_another_machine_is_said_in_one_line(machine: str, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_build.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu_build.platform, "system", lambda: system)
    with pytest.raises(BackendMissingError) as caught:
        build(RampPair()._kernel("ramp_forward"))
    expected = f'backend "host": needs x86-64 Linux, this is {machine} {system}; use backend = "reference"'
    assert str(caught.value) == expected


def test_a_limit_on_addresses_is_named_before_a_sanitizer_meets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.resource, "getrlimit", lambda which: (12 << 30, 12 << 30))
    for check in ("address", "race"):
        (line,) = check_pair("ramp", RampPair(), checks=(check,))
        assert (line.good, line.ran) == (False, False)
        assert line.text.startswith("the address space is limited to 12 GiB; ")


def test_a_build_counts_only_whole_and_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HECATE_KERNEL_CACHE", str(tmp_path))
    pair = RampPair()
    forward, backward = (pair._kernel(symbol) for symbol in pair.kernels.symbols)
    first, other = build(forward), build(backward)
    compiled: list[Path] = []
    real = cpu_build._compile
    monkeypatch.setattr(cpu_build, "_compile", lambda *given: compiled.append(given[-1]) or real(*given))
    assert build(forward) == first
    assert compiled == []  # a hit
    whole = first.read_bytes()
    for wrong in (whole[:-9], other.read_bytes()):
        first.unlink()  # as another process would replace it
        first.write_bytes(wrong)
        assert build(forward) == first
        assert first.read_bytes() != wrong
    assert compiled == [first] * 2
    first.with_name(f"{first.name}.seal").unlink()
    build(forward)
    assert compiled == [first] * 3


def test_parsed_headers_are_taken_where_they_fit_and_made_anew_where_they_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HECATE_KERNEL_CACHE", str(tmp_path / "cache"))
    build(_kernel(tmp_path, "out[0] = sqrtf(2.0f);"))
    (parsed,) = (tmp_path / "cache").glob("*.hpp.gch")
    parsed.write_bytes(b"gpch" + parsed.read_bytes()[:99])
    out = torch.zeros(1)
    HostLauncher().launch(_kernel(tmp_path, "out[0] = sqrtf(4.0f);"), (1, 1, 1), (1, 1, 1), [Out(out)])
    assert out[0] == 2
    command = [cpu_build.find_compiler(), *cpu_build._COMMON, *cpu_build._FLAVOUR["library"]]
    source = tmp_path / "empty.cpp"
    source.write_text("")
    asked = [*command, *cpu_build._machine_flags(), "-H", "-c", str(source), "-o", str(tmp_path / "empty.o")]
    taken = child.run([*asked, "-include", str(parsed.with_suffix(""))], child.Limits())
    assert taken.text.startswith(f"! {parsed}")
