"""What `auto` takes, that it says so, and that nothing is swapped in silence."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from hecate_core import MemoryLayer, backends, memory
from hecate_core.api import InputError
from hecate_core.backends import AutoPair, Choice, choices, pair_for
from hecate_core.cli.main import run
from hecate_core.ops.affine import REFERENCE

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_is_plain_torch_on_the_cpu_and_says_why() -> None:
    auto = pair_for("affine", "auto")
    assert auto.serving(CPU, torch.float32, 64) is REFERENCE
    found = auto.choice(CPU, torch.float32, 64)
    assert (found.asked, found.runs) == ("auto", "reference")
    assert found.line() == "affine: reference (kernels of auto run on CUDA tensors, these are on cpu)"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU backend lacks nothing."""
    monkeypatch.setattr(backends, "_missing", lambda pair: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    backends._announce.cache_clear()


@pytest.mark.usefixtures("card")
def test_auto_takes_kernels_for_cuda_tensors_that_they_read() -> None:
    auto = AutoPair("affine")
    for dtype in (torch.float32, torch.bfloat16):
        assert auto.choice(CUDA, dtype, 128) == Choice("affine", "auto", "nvrtc", "NVIDIA H100 80GB HBM3")
        assert auto.serving(CUDA, dtype, 128).backend == "nvrtc"
    assert auto.serving(CPU, torch.float32, 128) is REFERENCE


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("dtype", "width", "why"),
    [
        (torch.float64, 64, "its kernels take float32 or bfloat16, not float64"),
        (torch.float32, 512, "its kernels take heads up to 256 wide, not 512"),
    ],
)
def test_auto_announces_what_kernels_cannot_read(dtype: torch.dtype, width: int, why: str) -> None:
    auto = AutoPair("affine")
    with pytest.warns(RuntimeWarning, match=f"backend auto, op affine: reference .{why}"):
        assert auto.serving(CUDA, dtype, width) is REFERENCE
    assert auto.choice(CUDA, dtype, width).reason == why


def test_auto_announces_a_gpu_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_missing", lambda pair: 'backend "nvrtc": the driver is too old')
    backends._announce.cache_clear()
    with pytest.warns(RuntimeWarning, match="the driver is too old"):
        assert AutoPair("affine").serving(CUDA, torch.float32, 64) is REFERENCE
    assert AutoPair("nobodys").choice(CUDA, torch.float32, 64).reason == "no kernel pair is registered for a GPU"


def test_what_a_model_runs_on_is_listed_once_per_op() -> None:
    host = MemoryLayer(32, heads=2, rule="titans", levels=[1, 2], backend="host")
    assert choices(host, CPU, torch.float32) == [Choice("affine", "host", "host", "asked for")]
    auto = MemoryLayer(32, heads=2, rule="kda", levels=[1, 2])
    (found,) = choices(auto, CPU, torch.float32)
    assert (found.op, found.asked, found.runs) == ("affine_column", "auto", "reference")


@pytest.mark.parametrize(
    ("rule", "strategy", "ops"),
    [
        ("moneta", "frozen", {"decayed_linear", "linked_linear"}),
        ("memora", "tnt", {"decayed_linear", "linked_linear"}),
        ("atlas", "frozen", {"newton_schulz"}),
        ("lattice", "sequential", {"lattice"}),
        ("kda", "frozen", set()),
    ],
)
def test_ops_of_links_and_step_maps_are_listed_too(rule: str, strategy: str, ops: set[str]) -> None:
    layer = MemoryLayer(16, heads=1, rule=rule, strategy=strategy, levels=[1], chunk=4)
    found = choices(layer, CPU, torch.float32)
    assert {one.op for one in found} == ops
    assert {(one.asked, one.runs) for one in found} <= {("auto", "reference")}


def test_an_unknown_backend_and_a_missing_compiler_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r'^backend "hots" has no kernel pair for op "affine"; did you mean "host"\?$'):
        pair_for("affine", "hots")
    monkeypatch.setattr(backends, "_missing", lambda pair: 'backend "host": no C++ compiler "g++"; use "reference"')
    q = torch.zeros(1, 1, 4, 16)
    gates = {"retain": torch.ones(1, 1, 4), "write": torch.ones(1, 1, 4)}
    with pytest.raises(InputError, match=r'^backend "host": no C\+\+ compiler'):
        memory(q, q, q, rule="delta", gates=gates, backend="host")


class Broken:
    """A registry whose second pair cannot be made."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def names(self, kind: str) -> list[str]:
        return ["affine-host", "shattered"]

    def look(self, kind: str, name: str) -> Any:
        if name == "shattered":
            raise InputError('plugin "acme": pair "shattered" failed to import')
        return self._real.look(kind, name)

    def create(self, kind: str, name: str) -> Any:
        return self._real.create(kind, name)


def test_a_strangers_broken_pair_harms_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Broken(backends.registry())
    monkeypatch.setattr(backends, "registry", lambda: broken)
    assert pair_for("affine", "host").backend == "host"
    with pytest.raises(InputError, match=r'"nvrtc" has no kernel pair .*\(without plugin "acme": pair "shattered"'):
        pair_for("affine", "nvrtc")


def test_two_pairs_for_one_op_and_backend_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = Broken(backends.registry())
    twice.names = lambda kind: ["affine-host", "affine-host"]  # type: ignore[method-assign]
    monkeypatch.setattr(backends, "registry", lambda: twice)
    with pytest.raises(InputError, match='op "affine" on backend "host" is offered by the pairs'):
        pair_for("affine", "host")


TINY = [
    *("model.width=32", "model.heads=2", "model.depth=1", "data.length=24", "data.batch=2", "model.memory.chunk=16"),
    *("model.memory.rule=titans", "run.log_interval=1"),
]  # fmt: skip


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(f"{n} squared is {n * n}, its cube {n**3}" for n in range(400)))
    monkeypatch.chdir(tmp_path)


def _build(out: str, *settings: str, steps: int = 1) -> int:
    words = [*TINY, "data.path=text.txt", f"run.steps={steps}", *settings]
    return run(["build", *(part for word in words for part in ("--set", word)), "--out", out])


@pytest.mark.usefixtures("text")
def test_a_build_prints_and_records_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert _build("a") == 0
    assert "run affine on reference (kernels of auto run on CUDA tensors, these are on cpu)" in capsys.readouterr().err
    assert json.loads(Path("a/manifest.json").read_text())["backends"] == [
        attrs.asdict(pair_for("affine").choice(CPU, torch.float32, 16))
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.usefixtures("text")
def test_a_build_that_asks_for_a_missing_gpu_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert _build("a", "model.memory.backend=nvrtc") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('use backend = "reference"')
    assert not Path("a/manifest.json").exists()


@pytest.mark.usefixtures("text")
def test_a_model_on_the_host_backend_learns_with_the_losses_of_the_reference() -> None:
    losses = {}
    for backend in ("reference", "host"):
        assert _build(backend, f"model.memory.backend={backend}", steps=20) == 0
        lines = [json.loads(line) for line in Path(backend, "metrics.jsonl").read_text().splitlines()]
        losses[backend] = [line["loss"] for line in lines if "loss" in line]
    assert len(losses["host"]) == 20
    assert losses["host"] != losses["reference"]  # the kernels ran, in an order of their own
    assert losses["reference"][-1] < losses["reference"][0]
    assert losses["host"] == pytest.approx(losses["reference"], abs=1e-4)
