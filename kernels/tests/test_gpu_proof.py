"""`make gpu`, driven without a GPU: the same way on the host backend, with a clock that measures nothing."""

import json
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from hecate_kernels import child
from hecate_kernels.compare import differences
from hecate_kernels.failure import KernelError
from hecate_kernels.host import HostLauncher
from hecate_kernels.pair import FLOAT32
from jsonschema import Draft202012Validator
from ramp import RampPair

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from proof import machine, parity, roofline, speed, stage  # noqa: E402


def _script(name: str) -> Any:
    spec = util.spec_from_file_location(f"hecate_benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gpu, report = _script("gpu"), _script("gpu_report")
CHECK = Draft202012Validator(json.loads((BENCHMARKS / "proof" / "gpu.schema.json").read_text()))


@pytest.fixture(scope="module")
def rehearsed() -> dict[str, Any]:
    """The whole proof, with the stranger's pair as the only one: the others have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "pairs", lambda backend: {"ramp": RampPair()})
        found: dict[str, Any] = gpu.proof(stage.rehearsal())
    return found


def test_every_section_runs_and_the_result_keeps_its_schema(rehearsed: dict[str, Any]) -> None:
    assert rehearsed["wrong"] == []
    assert rehearsed["status"] == "rehearsed"
    CHECK.validate(json.loads(json.dumps(rehearsed)))
    assert [one["op"] for one in rehearsed["parity"]] == ["ramp"]
    assert rehearsed["build_step"]["same_bits"]
    assert {(one["rule"], one["direction"]) for one in rehearsed["speed"]} == {
        *((rule, way) for rule in ("delta", "titans", "kda") for way in ("forward", "backward")),
        ("delta", "decode"),
    }
    for wrong in ({"status": "not run"}, {"speed": [{"rule": "delta"}]}, {"build_step": {"same_bits": 1}}):
        assert not CHECK.is_valid({**rehearsed, **wrong})


def test_every_pair_of_both_backends_is_under_proof() -> None:
    assert set(parity.pairs("nvrtc")) == set(parity.pairs("host")) >= {"affine", "affine_column", "decayed_linear"}


def test_a_section_that_fails_is_told_and_ends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Wrong(RampPair):
        def _run(self, *given: Any) -> Any:
            return {name: -one for name, one in super()._run(*given).items()}

    def broken(stage: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    monkeypatch.setattr(parity, "pairs", lambda backend: {"ramp": Wrong()})
    monkeypatch.setattr(gpu.replay, "launch_cost", broken)
    monkeypatch.setattr(gpu.replay, "build_step", lambda stage, path: {"same_bits": False})
    monkeypatch.setattr(gpu.speed, "cases", lambda small: iter(()))
    out = tmp_path / "gpu.json"
    assert gpu.main(["--rehearse", "--out", str(out)]) == 1
    wrong = json.loads(out.read_text())["wrong"]
    assert "launching: RuntimeError: CUDA error: an illegal memory access" in wrong
    assert "build_step: the replayed step differs from the plain one" in wrong
    assert any(line.startswith("parity: ramp float32: y is off by 2.0e+00") for line in wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    before = (stage.RESULTS / "gpu.json").exists()
    assert gpu.main([]) == 0
    assert gpu.main(["--demand"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith('gpu: not run: backend "nvrtc": ') for line in lines)
    assert (stage.RESULTS / "gpu.json").exists() == before
    assert machine.card() == {}


def test_arguments_are_carried_to_a_device_and_results_back_as_they_lie() -> None:
    moving = stage.Moving(HostLauncher(), torch.device("cpu"))
    pair = RampPair(where=moving)
    for trial in pair.trials(False):
        assert all(one.good for one in differences(trial, FLOAT32, moving))
    wide = torch.arange(24.0).view(2, 3, 4)[:, 1:, ::2]
    there = moving._there(wide)
    assert there.stride() == wide.stride()
    assert torch.equal(there, wide)
    assert there.data_ptr() != wide.data_ptr()


def test_a_kernel_that_leaves_outputs_unwritten_shows_through_the_carrier(tmp_path: Path) -> None:
    source = tmp_path / "ramp.cu"
    source.write_text(RampPair().kernels.source.read_text().replace("y[row + t] = tile", "if (t) y[row + t] = tile"))
    moving = stage.Moving(HostLauncher(), torch.device("cpu"))
    trial = next(iter(RampPair(source).trials(False)))
    assert not all(one.good for one in differences(trial, FLOAT32, moving))


@pytest.mark.parametrize(
    ("rule", "width", "backward", "megabytes", "milliseconds", "gigaflop"),
    [
        ("delta", 128, False, 541, 0.162, 97),
        ("delta", 128, True, 948, 0.283, 262),
        ("titans", 128, False, 545, 0.163, 148),
        ("titans", 128, True, 956, 0.285, 399),
        ("delta", 64, False, 273, 0.081, 37),
        ("delta", 64, True, 478, 0.143, 99),
        ("titans", 64, False, 277, 0.083, 49),
        ("titans", 64, True, 487, 0.145, 133),
    ],
)
def test_floors_are_those_counted_by_hand(
    rule: str, width: int, backward: bool, megabytes: int, milliseconds: float, gigaflop: int
) -> None:
    count = 8 * 16 * 4096
    assert roofline.moved(rule, count, width, backward) / 1e6 == pytest.approx(megabytes, abs=0.6)
    assert roofline.products(rule, count, width, backward) / 1e9 == pytest.approx(gigaflop, abs=0.6)
    found = roofline.floor("NVIDIA H100 80GB HBM3", rule, count, width, backward)
    assert found.by_bytes == pytest.approx(milliseconds, abs=6e-4)
    assert roofline.floor("Some Card", rule, count, width, backward) == (None, None)
    faster = roofline.floor("NVIDIA H200", rule, count, width, backward)
    assert faster.by_bytes is not None
    assert faster.by_bytes < milliseconds


@pytest.mark.parametrize(
    ("tool", "status", "text", "said"),
    [
        ("memcheck", 0, "========= COMPUTE-SANITIZER\n12 cases\n========= ERROR SUMMARY: 0 errors\n", "clean"),
        ("racecheck", 0, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", "clean"),
        ("memcheck", 99, "========= COMPUTE-SANITIZER\n========= Invalid __global__ write of size 4 bytes\n",
         "found: Invalid __global__ write of size 4 bytes (status 99)"),
        ("memcheck", 0, "12 cases\n", "found: no report (status 0)"),
        ("racecheck", None, "", "not run: took too long"),
    ],
)  # fmt: skip
def test_what_a_sanitizer_says_is_one_line(tool: str, status: int | None, text: str, said: str) -> None:
    assert parity.outcome(tool, child.Finished(status, text)) == said


def test_cases_beyond_the_time_are_not_run_and_said_so() -> None:
    late = stage.rehearsal(minutes=-1)
    assert {one["theirs"] for one in speed.speeds(late, "")} == {"not run: out of time"}


def test_both_sides_compute_the_same_recurrence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer is played by the recurrence in its own layout: its results must be ours."""
    import types

    def peer(q: Any, k: Any, v: Any, g: Any, beta: Any, scale: float) -> Any:
        q, k, v, g, beta = (one.float() for one in (q, k, v, g, beta))
        memory, reads = torch.zeros(*k.shape[:1], k.shape[2], k.shape[3], v.shape[3]), []
        for t in range(q.shape[1]):
            memory = memory * g[:, t, :, None, None].exp()
            error = v[:, t] - torch.einsum("bhk,bhkv->bhv", k[:, t], memory)
            memory = memory + torch.einsum("bhk,bhv->bhkv", k[:, t], beta[:, t, :, None] * error)
            reads.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, t], memory))
        return torch.stack(reads, 1), memory

    ops = types.ModuleType("fla.ops.gated_delta_rule")
    ops.chunk_gated_delta_rule = peer  # type: ignore[attr-defined]
    ops.fused_recurrent_gated_delta_rule = None  # type: ignore[attr-defined]
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "fla.ops.gated_delta_rule", ops)
    monkeypatch.setattr(speed, "cases", lambda small: iter([("delta", speed.TINY, ("forward", "backward"))]))
    for one in speed.speeds(stage.rehearsal(), "NVIDIA H100"):
        assert one["ratio"] == 1.0
        assert one["reads_apart"] < 1e-2
        assert one["floor"]["by_bytes"] > 0


def test_the_page_and_the_readme_say_what_the_file_says(rehearsed: dict[str, Any]) -> None:
    assert report.NOT_RUN in report.page(None)
    row = {**rehearsed["speed"][0], "theirs": "fla-core", "theirs_ms": 2.0, "ratio": 0.5, "ours_ms": 1.0,
           "floor": {"by_bytes": 0.162, "by_products": 0.1}}  # fmt: skip
    titans = {**row, "rule": "titans", "ours_ms": 1.5}
    made = {**rehearsed, "speed": [row, titans], "card": {"name": "NVIDIA H100 80GB HBM3", "driver_version": "580.1"}}
    text = report.page(made)
    assert "| delta | B 1, H 2, T 24, D 16 | forward | 1.000 | 2.000 | 0.50 | 0.162 | 16% |" in text
    assert "driver_version 580.1" in text
    assert "* Momentum, B 1, H 2, T 24, D 16, forward: 1.50 times our own gated delta." in text
    assert "| delta | B 1, H 2, T 24, D 16 | forward | 0.50 | 1.0 |" in report.short(made)
    assert report.short(None).startswith("Not run")


def test_the_committed_page_is_made_of_the_committed_file() -> None:
    done = child.run([sys.executable, str(BENCHMARKS / "gpu_report.py"), "--check"], child.Limits())
    assert done.status == 0, done.text


def test_a_kernel_error_in_one_case_is_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(RampPair):
        def _run(self, *given: Any) -> Any:
            raise KernelError("ramp.cu:7: wrong")

    monkeypatch.setattr(parity, "pairs", lambda backend: {"ramp": Failing()})
    (record,) = parity.parity(stage.rehearsal())
    assert record["wrong"] == [f"T {length}: ramp.cu:7: wrong" for length in (7, 257)]
