"""The words of CUDA that a kernel may use: they build and mean the same here; the others are refused by name."""

import re
from pathlib import Path

import pytest
import torch
from hecate_kernels.failure import BackendMissingError, KernelError
from hecate_kernels.host import HostLauncher
from hecate_kernels.nvrtc import as_job, require_compiler
from hecate_kernels.nvrtc_worker import compile_cubin
from hecate_kernels.pair import InOut, Kernel, Out

WORDS = Path(__file__).with_name("words.cu")
EXPECTED = re.findall(r"^ +PUT\((.*)\) +// ([=~]) (\S+)$", WORDS.read_text(), re.MULTILINE)


def test_every_word_builds_and_means_what_cuda_says() -> None:
    out, counts = torch.zeros(len(EXPECTED), dtype=torch.float64), torch.zeros(65, dtype=torch.int32)
    HostLauncher().launch(Kernel(WORDS, "words"), (1, 1, 1), (64, 1, 1), [torch.arange(4.0), InOut(counts), Out(out)])
    for (word, how, expected), found in zip(EXPECTED, out.tolist(), strict=True):
        wanted = float(expected) if how == "=" else pytest.approx(float(expected), rel=1e-6)
        assert found == wanted, word


def test_every_word_is_one_of_cuda() -> None:
    try:
        require_compiler()
    except BackendMissingError as missing:
        pytest.skip(str(missing))
    _, compiled = compile_cubin(as_job(Kernel(WORDS, "words"), "sm_90a"))
    assert not compiled.failed, compiled.log


def _kernel(tmp_path: Path, body: str, before: str = "") -> Kernel:
    source = tmp_path / "k.cu"
    source.write_text(
        f'#include "hecate_device.cuh"\n{before}\nextern "C" __global__ void k(float* out) {{\n{body}\n}}\n'
    )
    return Kernel(source, "k")


@pytest.mark.parametrize(
    ("body", "before", "line", "message"),
    [
        (
            "__shared__ float tile[4];",
            "",
            4,
            "__shared__ has no meaning on the host: use HECATE_SHARED, or HECATE_ARENA",
        ),
        ("extern __shared__ float tile[];", "", 4, "__shared__ has no meaning on the host"),
        ('asm volatile("membar.gl;" ::: "memory");', "", 4, "inline PTX does not run on the host"),
        ("", "__managed__ int counter;", 2, "__managed__ has no meaning on the host"),
        ("out[0] = __shfl(out[1], 0);", "", 4, "'__shfl' was not declared in this scope"),
        ("half2 pair;", "", 4, "'half2' was not declared in this scope"),
        ("atomicMax(out, 1.0f);", "", 4, "no matching function for call to 'atomicMax(float*&, float)'"),
    ],
)
def test_words_without_a_meaning_here_are_refused_by_name(
    body: str, before: str, line: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(KernelError, match=rf"k\.cu:{line}: {re.escape(message)}") as caught:
        HostLauncher().launch(_kernel(tmp_path, body, before), (1, 1, 1), (1, 1, 1), [InOut(torch.zeros(2))])
    assert "\n" not in str(caught.value)


def test_a_broken_assertion_names_itself_and_its_line(tmp_path: Path) -> None:
    kernel = _kernel(tmp_path, "assert(out[0] > threadIdx.x);")
    with pytest.raises(KernelError, match=r"k\.cu:4: assert\(out\[0\] > threadIdx\.x\) does not hold \(thread 2\)"):
        HostLauncher().launch(kernel, (1, 1, 1), (4, 1, 1), [InOut(torch.full((1,), 2.0))])
