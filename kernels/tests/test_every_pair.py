"""What must hold for every registered pair: right numbers, the same bits in every order, no report, no hole in the net.

A pair that a plugin adds is met here as soon as it is registered. What is special to one pair stands in its own file.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
from faults import KINDS, Fault, Planted, assert_found, planted_in
from hecate_kernels.check import THOROUGH_LAUNCH_S, check_pair, limits_of
from hecate_kernels.failure import BackendMissingError, KernelError
from hecate_kernels.finding import find_pairs
from hecate_kernels.host import HostLauncher
from hecate_kernels.nvrtc import ARCHITECTURES, require_compiler
from hecate_kernels.pair import SHARED_LIMITS, Argument, Budget, CheckedPair, Dim3, Kernel, Trial
from hecate_kernels.resources import compile_report, demand_compiled, over_budget
from hecate_kernels.trials import missing

PAIRS: dict[str, CheckedPair] = find_pairs([])
EVERY = pytest.mark.parametrize("op", PAIRS)
FAULTS = [pytest.param(op, fault, id=f"{op}: {fault}") for op in PAIRS for fault in planted_in(op)]


@EVERY
@pytest.mark.parametrize("check", ["numbers", "address", "race"])
def test_a_covering_set_passes(op: str, check: str) -> None:
    (line,) = check_pair(op, PAIRS[op], checks=(check,), limits=limits_of(THOROUGH_LAUNCH_S))  # however busy it is here
    if not line.ran:
        pytest.skip(line.text)
    assert line.good, line


@pytest.mark.soak
@EVERY
@pytest.mark.parametrize("check", ["numbers", "address", "race", "compile"])
def test_the_full_product_passes(op: str, check: str) -> None:
    (line,) = check_pair(op, PAIRS[op], thorough=True, checks=(check,))
    print(line)
    assert line.good, line


@EVERY
def test_the_full_product_leaves_no_size_out(op: str) -> None:
    kernels = PAIRS[op].kernels
    assert missing(PAIRS[op].trials(True), kernels.dtypes, kernels.has_tokens) == []


@EVERY
def test_the_covering_set_meets_every_length_size_dtype_and_layout(op: str) -> None:
    trials: list[Trial] = list(PAIRS[op].trials(False))
    lengths = {1, 7, 63, 64, 100, 257} if PAIRS[op].kernels.has_tokens else {0}
    assert lengths <= {trial.length for trial in trials}
    assert {16, 64, 100, 128} <= {trial.width for trial in trials}
    assert {trial.dtype for trial in trials} == set(PAIRS[op].kernels.dtypes)
    assert {(trial.dtype, trial.view) for trial in trials} == {(d, v) for d in PAIRS[op].kernels.dtypes for v in (0, 1)}


@EVERY
def test_carried_state_goes_in_and_out_with_its_gradients(op: str) -> None:
    for trial in PAIRS[op].trials(False):
        names = trial.truth()
        assert any(f"d_{name}" in names for name in names) == PAIRS[op].kernels.has_state, trial.name


class Stingy(HostLauncher):
    """Gives every launch one piece of shared memory less than it declares, and sees it refused."""

    refused = 0

    def launch(
        self, kernel: Kernel, grid: Dim3, block: Dim3, arguments: Sequence[Argument], shared_bytes: int = 0
    ) -> None:
        if shared_bytes and 0 not in grid:
            with pytest.raises(KernelError, match="of dynamic shared memory; the launch gives"):
                super().launch(kernel, grid, block, arguments, shared_bytes - 128)
            self.refused += 1
        super().launch(kernel, grid, block, arguments, shared_bytes)


@EVERY
def test_the_declared_shared_memory_is_what_the_kernels_carve(op: str) -> None:
    """One quick case per dtype: what a launch needs depends on constants, which these share with the others."""
    where = Stingy()
    for trial in {trial.dtype: trial for trial in PAIRS[op].trials(False) if trial.quick}.values():
        trial.run(where)
    assert where.refused


@EVERY
def test_seven_kinds_of_faults_and_more_are_planted(op: str) -> None:
    planted = planted_in(op)
    assert {fault.kind for fault in planted} >= set(KINDS)
    assert len({str(fault) for fault in planted}) == len(planted) >= 6


@pytest.mark.usefixtures("scratch_builds")
@pytest.mark.parametrize(("op", "fault"), FAULTS)
def test_planted_faults_are_found(op: str, fault: Fault, tmp_path: Path) -> None:
    source = fault.plant(PAIRS[op].kernels.source, tmp_path)
    assert_found(Planted(PAIRS[op], source, fault.case))


@pytest.mark.usefixtures("scratch_builds")
@pytest.mark.parametrize("op", [pytest.param(op, marks=() if op == "affine" else pytest.mark.soak) for op in PAIRS])
def test_racecheck_alone_sees_blocks_race(op: str, tmp_path: Path) -> None:
    fault = next(one for one in planted_in(op) if one.kind == "race between blocks")
    source = fault.plant(PAIRS[op].kernels.source, tmp_path)
    assert "data race" in assert_found(Planted(PAIRS[op], source, fault.case), ("race",))


def _without_compiler() -> str | None:
    try:
        require_compiler()
    except BackendMissingError as lacking:
        return str(lacking)
    return None


@pytest.mark.skipif(_without_compiler() is not None, reason=str(_without_compiler()))
@EVERY
def test_one_specialisation_of_every_entry_point_compiles_within_its_budget(op: str) -> None:
    class Few:
        kernels = PAIRS[op].kernels
        trials = PAIRS[op].trials

        def specialisations(self, shared_limit: int) -> list[Kernel]:
            return list({one.symbol: one for one in PAIRS[op].specialisations(shared_limit)}.values())

    met = set()
    for kernel, arch, compiled, use in compile_report(Few(), ARCHITECTURES[3:4]):
        demand_compiled(kernel, arch, compiled)
        assert over_budget(use, PAIRS[op].kernels.budgets.get(kernel.symbol, Budget()), arch) is None, kernel
        met.add(kernel.symbol)
    assert met == set(PAIRS[op].kernels.budgets), "every entry point has a budget and is compiled"


@EVERY
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_specialisation_says_its_shared_memory_and_fits_its_budget_and_the_card(op: str, arch: str) -> None:
    for kernel in PAIRS[op].specialisations(SHARED_LIMITS[arch]):
        assert kernel.shared_bytes is not None, kernel
        budget = PAIRS[op].kernels.budgets.get(kernel.symbol, Budget())
        assert kernel.shared_bytes <= min(budget.shared_bytes, SHARED_LIMITS[arch]), kernel
