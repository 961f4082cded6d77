"""The GPU side as far as it goes without one: compile, cache, limits, and one line where it cannot run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hecate_kernels.affine import AffineOnGpu
from hecate_kernels.failure import BackendMissingError, KernelError
from hecate_kernels.finding import find_pairs
from hecate_kernels.launch import launcher
from hecate_kernels.nvrtc import (
    ARCHITECTURES,
    NvrtcLauncher,
    ProgramCache,
    open_driver,
    opened,
    require_compiler,
    sealed,
)
from hecate_kernels.nvrtc_worker import parse_report
from hecate_kernels.pair import SHARED_LIMITS, Budget, Kernel, Out
from hecate_kernels.resources import Use, compile_report, over_budget
from ramp import RampPair

from hecate_core.api import InputError
from hecate_core.backends import pair_for


def _has_compiler() -> str | None:
    try:
        require_compiler()
    except BackendMissingError as missing:
        return str(missing)
    return None


needs_compiler = pytest.mark.skipif(_has_compiler() is not None, reason=str(_has_compiler()))
KERNEL = Kernel(RampPair().kernels.source, "ramp_forward", (("THREADS", 128),))


@needs_compiler
def test_the_strangers_pair_compiles_for_all_architectures_within_its_budget() -> None:
    pair = RampPair()
    found = list(compile_report(pair))
    assert len(found) == 2 * len(ARCHITECTURES)
    for kernel, arch, compiled, use in found:
        assert compiled.registers > 0
        assert (use.static, use.dynamic) == (0, 512)  # what its launches ask for
        assert over_budget(use, pair.kernels.budgets[kernel.symbol], arch) is None


def test_a_budget_is_what_a_kernel_may_use() -> None:
    log = (
        "ptxas info    : Compiling entry function 'k' for 'sm_90a'\nFunction properties for k\n"
        "    0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\nUsed 97 registers, 512 bytes smem\n"
    )
    compiled = parse_report(log, "k")
    assert (compiled.registers, compiled.spill_bytes, compiled.shared_bytes) == (97, 12, 512)
    use, spilling = Use.of(compiled, 1024), Budget(spill_bytes=12, spill_reason="known")
    assert over_budget(use, Budget(registers=96)) == "97 registers; declared 96"
    assert over_budget(use, Budget()) == "12 bytes spilled; declared 0"
    assert over_budget(use, Budget(spill_bytes=12)) == "spilled bytes that are declared without a reason"
    assert over_budget(use, spilling, "sm_86") is None
    told = "1536 bytes of shared memory (512 static, 1024 dynamic); declared 1535"
    assert over_budget(use, attrs.evolve(spilling, shared_bytes=1535)) == told
    wide = attrs.evolve(spilling, shared_bytes=1 << 20)
    assert over_budget(Use.of(compiled, 100864), wide, "sm_86") is None
    assert str(over_budget(Use.of(compiled, 100865), wide, "sm_86")).endswith("dynamic); sm_86 gives 101376")
    assert "of which nobody says how much" in str(over_budget(Use.of(compiled, None), wide))


@needs_compiler
def test_compiler_errors_name_the_line_of_the_source(tmp_path: Path) -> None:
    source = tmp_path / "k.cu"
    source.write_text('#include "hecate_device.cuh"\nextern "C" __global__ void k(float* x) {\n    *x = chnk;\n}\n')
    with pytest.raises(KernelError, match=r'k\.cu:3: identifier "chnk" is undefined \(nvrtc, sm_90a\)'):
        ProgramCache(tmp_path / "cache").cubin(Kernel(source, "k"), "sm_90a")


def _entries(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size > 1000]


@needs_compiler
def test_a_cache_entry_counts_only_whole_and_under_its_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hecate_kernels import nvrtc

    cubin = ProgramCache(tmp_path).cubin(KERNEL, "sm_80")
    compiled = []
    real = nvrtc.compile_cubin
    monkeypatch.setattr(nvrtc, "compile_cubin", lambda job: compiled.append(job.arch) or real(job))
    assert ProgramCache(tmp_path).cubin(KERNEL, "sm_80") == cubin
    assert compiled == []  # a hit
    (entry,) = _entries(tmp_path)
    whole = entry.read_bytes()
    for damaged in (whole[:-7], whole[:40] + b"\0" + whole[41:], b"", whole[32:]):
        entry.write_bytes(damaged)
        assert ProgramCache(tmp_path).cubin(KERNEL, "sm_80") == cubin
    assert compiled == ["sm_80"] * 4
    other = ProgramCache(tmp_path).cubin(KERNEL, "sm_90a")
    (foreign,) = [file for file in _entries(tmp_path) if file != entry]
    foreign.write_bytes(whole)  # an entry of another key
    assert ProgramCache(tmp_path).cubin(KERNEL, "sm_90a") == other
    assert compiled[-2:] == ["sm_90a", "sm_90a"]


def test_entries_are_sealed_to_their_key() -> None:
    entry = sealed(b"key", b"cubin")
    assert opened(b"key", entry) == b"cubin"
    assert opened(b"other", entry) is None
    assert opened(b"key", entry[:-1]) is None
    assert opened(b"key", b"") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_is_said_in_one_line() -> None:
    with pytest.raises(BackendMissingError, match=r'^backend "nvrtc": .*use backend = "reference"$'):
        open_driver()


def _line(monkeypatch: pytest.MonkeyPatch, **torchs: Any) -> str:
    """What opening the driver says where torch and the libraries are as given."""
    from hecate_kernels import nvrtc

    monkeypatch.setattr(nvrtc, "require_compiler", lambda: None)
    monkeypatch.setattr(nvrtc, "cuda_versions", lambda: (torchs.pop("driver", (13, 0)), (13, 0)))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, value in {"init": lambda: None, "current_device": lambda: 0, **torchs}.items():
        if name != "driver":
            monkeypatch.setattr(torch.cuda, name, value)
    with pytest.raises(BackendMissingError) as caught:
        open_driver()
    line = str(caught.value)
    assert line.startswith('backend "nvrtc": ')
    assert line.endswith('use backend = "reference"')
    assert "\n" not in line
    return line


def _raising(error: Exception) -> Any:
    def call() -> None:
        raise error

    return call


def test_every_reason_for_no_gpu_is_one_line_that_names_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Found no NVIDIA driver on your system; " in _line(
        monkeypatch, init=_raising(RuntimeError("Found no NVIDIA driver on your system. Please check that you\nhave"))
    )
    too_old = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"
    assert "too old (found version 11040); " in _line(monkeypatch, init=_raising(RuntimeError(too_old)))
    assert "No CUDA GPUs are available; " in _line(
        monkeypatch, init=_raising(RuntimeError("No CUDA GPUs are available"))
    )
    found = _line(monkeypatch, driver=(12, 4))
    assert "the driver knows CUDA 12.4, nvidia-cuda-nvrtc is for CUDA 13.0; update the driver" in found
    old = _line(monkeypatch, get_device_capability=lambda device: (7, 5), get_device_name=lambda device: "Tesla T4")
    assert "Tesla T4 is sm_75; needs sm_80 or newer" in old


def test_without_a_compiler_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from hecate_kernels import nvrtc

    monkeypatch.setattr(nvrtc.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError("No cuda")))
    with pytest.raises(
        BackendMissingError, match=r"^backend \"nvrtc\": No cuda; install hecate-kernels\[cuda\], or use"
    ):
        require_compiler()


@needs_compiler
def test_an_architecture_that_the_compiler_does_not_know_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        BackendMissingError, match="the compiler does not know sm_999; install a newer nvidia-cuda-nvrtc"
    ):
        ProgramCache(tmp_path).cubin(KERNEL, "sm_999")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("op", find_pairs([]))
def test_a_model_that_asks_for_the_gpu_is_refused_before_its_first_step(op: str) -> None:
    with pytest.raises(InputError, match=r'^backend "nvrtc": .*use backend = "reference"$'):
        pair_for(op, "nvrtc")


def test_an_unknown_backend_lists_what_there_is() -> None:
    with pytest.raises(InputError, match='backend "cuda": no kernels run there; known: host, nvrtc'):
        launcher("cuda")


class PretendDriver:
    """A card that remembers what it was asked to run."""

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []

    def arch(self, device: int) -> str:
        return "sm_90a"

    def shared_limit(self, device: int) -> int:
        return SHARED_LIMITS["sm_90a"]

    def load(self, cubin: bytes, symbol: str, device: int) -> Any:
        assert cubin
        return symbol

    def limits(self, kernel: Any, device: int) -> tuple[int, int]:
        return 512, 1024

    def launch(self, kernel: Any, grid: Any, block: Any, shared: int, arguments: Sequence[Any], device: int) -> None:
        self.launched.append((kernel, grid, block, shared, list(arguments), device))


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[NvrtcLauncher, PretendDriver]:
    from hecate_kernels import nvrtc

    monkeypatch.setattr(nvrtc, "_common_device", lambda tensors, kernel: 0)
    driver = PretendDriver()
    return NvrtcLauncher(driver, ProgramCache(tmp_path)), driver


@needs_compiler
def test_a_launch_hands_over_pointers_and_typed_scalars(pretend: tuple[NvrtcLauncher, PretendDriver]) -> None:
    where, driver = pretend
    x, y = torch.zeros(8), torch.zeros(8)
    where.launch(KERNEL, (2, 1, 1), (128, 1, 1), [x, x, Out(y), np.int32(4)], 512)
    assert driver.launched == [
        ("ramp_forward", (2, 1, 1), (128, 1, 1), 512, [x.data_ptr(), x.data_ptr(), y.data_ptr(), np.int32(4)], 0)
    ]
    with pytest.raises(TypeError, match="has no width"):
        where.launch(KERNEL, (2, 1, 1), (128, 1, 1), [x, x, Out(y), 4], 512)


@needs_compiler
@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        ((1, 65536, 1), (128, 1, 1), 0, "wants a grid of"),
        ((1, 1, 1), (32, 32, 1), 0, "wants 1024 threads per block; this kernel can run with 512"),
        ((1, 1, 1), (32, 1, 1), 1025, "wants 1025 bytes of shared memory; this card gives 1024"),
    ],
)
def test_limits_are_checked_before_the_launch(
    pretend: tuple[NvrtcLauncher, PretendDriver], grid: Any, block: Any, shared: int, message: str
) -> None:
    where, driver = pretend
    with pytest.raises(KernelError, match=rf"ramp\.cu:1: ramp_forward {message}"):
        where.launch(KERNEL, grid, block, [torch.zeros(1)], shared)
    assert driver.launched == []


def test_tensors_off_the_gpu_are_refused() -> None:
    with pytest.raises(KernelError, match='arguments are on cpu; backend "nvrtc" wants one CUDA device'):
        NvrtcLauncher(PretendDriver()).launch(KERNEL, (1, 1, 1), (32, 1, 1), [torch.zeros(1)])


def test_making_the_gpu_pair_opens_nothing() -> None:
    assert AffineOnGpu().backend == "nvrtc"


@needs_compiler
def test_the_worker_imports_neither_torch_nor_core(tmp_path: Path) -> None:
    import subprocess
    import sys

    from hecate_kernels import nvrtc_worker

    (tmp_path / "jobs").write_text(json.dumps([]))
    code = (
        f"import sys, runpy; sys.argv = ['w', '{tmp_path}/jobs', '{tmp_path}/results', '9']\n"
        f"try: runpy.run_path('{nvrtc_worker.__file__}', run_name='__main__')\n"
        "except SystemExit: pass\nassert not {'torch', 'hecate_core'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
