"""A check that checked nothing is no pass: whatever a pair leaves out is named."""

import re
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest
import torch
from hecate_kernels.check import check_pair
from hecate_kernels.finding import find_pairs, subjects
from hecate_kernels.host import HostLauncher
from hecate_kernels.pair import Kernel, Launcher, Out, Outputs, Trial
from ramp import RampPair

from hecate_core.api import InputError
from hecate_core.registry import Registry, lookup


class Changed(RampPair):
    """Ramp with every trial as `change` makes it."""

    def trials(self, thorough: bool) -> Iterable[Trial]:
        return [self.change(trial) for trial in super().trials(thorough)]

    def change(self, trial: Trial) -> Trial:
        return trial


class NoTruth(Changed):
    def change(self, trial: Trial) -> Trial:
        return attrs.evolve(trial, truth=dict)


class NoGradients(Changed):
    def change(self, trial: Trial) -> Trial:
        def outputs() -> Outputs:
            return {name: one for name, one in trial.truth().items() if not name.startswith("d_")}

        return attrs.evolve(trial, truth=outputs)


class RunsElsewhere(Changed):
    """The trials take the launcher that they are given for one of their own."""

    def change(self, trial: Trial) -> Trial:
        return attrs.evolve(trial, run=lambda _: trial.run(HostLauncher()))


class LaunchesNothing(Changed):
    def change(self, trial: Trial) -> Trial:
        return attrs.evolve(trial, run=lambda _: trial.truth())


class NeverBackward(Changed):
    def change(self, trial: Trial) -> Trial:
        def run(where: Launcher) -> Outputs:
            class Forward(HostLauncher):
                def launch(self, kernel: Kernel, *given: object, **more: object) -> None:
                    if kernel.symbol.endswith("forward"):
                        where.launch(kernel, *given, **more)  # type: ignore[arg-type]

            return trial.run(Forward())

        return attrs.evolve(trial, run=run)


class NothingToCompile(RampPair):
    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        return [one for one in super().specialisations(shared_limit) if one.symbol != "ramp_backward"]


@pytest.mark.parametrize(
    ("pair", "check", "line"),
    [
        (NoTruth, "numbers", r"ramp\.cu:1: the truth of T 7 has no gradient \(d_NAME\) to check"),
        (NoGradients, "numbers", r"ramp\.cu:1: the truth of T 7 has no gradient"),
        (
            RunsElsewhere,
            "numbers",
            r"ramp\.cu:1: ramp_forward is launched in this process while it is checked; a trial",
        ),
        (LaunchesNothing, "numbers", r"ramp\.cu:1: no trial launches ramp_forward here, so it was not checked"),
        (LaunchesNothing, "address", r"ramp\.cu:1: no trial launches ramp_forward here"),
        (LaunchesNothing, "race", r"ramp\.cu:1: no trial launches ramp_forward here"),
        (NeverBackward, "race", r"ramp\.cu:1: no trial launches ramp_backward here"),
        (NothingToCompile, "compile", r"ramp\.cu:1: ramp_backward is in no specialisation, so it was not compiled"),
    ],
)
def test_what_was_not_checked_is_no_pass(pair: type[RampPair], check: str, line: str) -> None:
    (found,) = check_pair("ramp", pair(), checks=(check,))
    if not found.ran:
        pytest.skip(found.text)
    assert not found.good
    assert re.search(line, found.text), found.text


def test_a_second_source_of_an_op_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "affine.cu"
    other.write_text("// another kernel of the same op")
    real = Registry.create

    def create(self: Registry, kind: str, reference: object, **given: object) -> object:
        made = real(self, kind, reference, **given)
        if str(reference).endswith("affine-nvrtc"):
            made.kernels = attrs.evolve(made.kernels, source=other)
        return made

    monkeypatch.setattr(lookup.Registry, "create", create)
    found = find_pairs(["hecate-kernels"])
    assert found["affine"].kernels.source != other
    assert [pair.kernels.source for name, pair in found.items() if name.endswith("affine-nvrtc")] == [other]


@pytest.mark.parametrize("error", [SystemExit(0), RuntimeError("boom"), InputError("no card")])
def test_a_pair_that_cannot_be_made_harms_no_other(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Registry.create

    def create(self: Registry, kind: str, reference: object, **given: object) -> object:
        if str(reference).endswith("affine-host"):
            raise error
        return real(self, kind, reference, **given)

    monkeypatch.setattr(lookup.Registry, "create", create)
    found = {one.name: one for one in subjects(["hecate-kernels"])}
    assert {"affine", "affine_column", "decayed_linear"} < set(found), "the other backend's pair is there"
    broken = found["affine-host"].broken
    assert broken is not None
    assert (broken.exit_code, "\n" in str(broken)) == (3, False)
    assert str(error) in str(broken)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("min(2.7f, 2.9f)", 2.7), ("max(0.3f, 0.25f)", 0.3), ("max(nanf(\"\"), 1.0f)", 1.0),
        ("(float)min(2.5, 3.5)", 2.5),
        ("(float)(max(3000000000u, 1u) >> 16)", 45776.0), ("(float)(min(1LL << 40, 1LL << 41) >> 36)", 16.0),
        ("(float)min(-3, 2)", -3.0),
    ],
)  # fmt: skip
def test_min_and_max_are_those_of_their_type(expression: str, value: float, tmp_path: Path) -> None:
    source, out = tmp_path / "k.cu", torch.zeros(1)
    source.write_text(
        f'#include "hecate_device.cuh"\nextern "C" __global__ void k(float* out) {{ out[0] = {expression}; }}\n'
    )
    HostLauncher().launch(Kernel(source, "k"), (1, 1, 1), (1, 1, 1), [Out(out)])
    assert float(out[0]) == pytest.approx(value, abs=1e-6)
