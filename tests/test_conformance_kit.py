"""The kit tells every planted fault by the check that is named after it, and lets good members pass."""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import pytest
import torch

from hecate_core.api import (
    L2,
    ComposedRule,
    Dot,
    Gate,
    GradientDescent,
    Matrix,
    Momentum,
    ScalarDecay,
    Tensor,
    Tokens,
)
from hecate_core.knobs.mlp import MLP
from hecate_core.testing import Check, check_bias, check_rule, check_strategy
from hecate_core.testing.engine import Failed, Suite

from .faulty import DELTA, FAULTS


def failed(checks: Iterator[Check]) -> dict[str, str]:
    return {check.name: check.reason for check in checks if not check.ok}


def test_there_are_enough_planted_faults() -> None:
    assert len(FAULTS) >= 25


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_told_by_the_check_named_after_it(fault: str) -> None:
    found = failed(FAULTS[fault].run())
    assert FAULTS[fault].told_by in found
    reason = found[FAULTS[fault].told_by]
    assert reason
    assert "\n" not in reason


@pytest.mark.parametrize("structure", [Matrix(), MLP(), MLP(norm=True, residual=True)])
def test_the_members_without_their_faults_pass(structure: Any) -> None:
    rule = ComposedRule("fine", structure=structure, bias=L2(), retention=ScalarDecay(), algorithm=Momentum())
    assert failed(check_rule(rule)) == {}


@pytest.mark.parametrize("bias", [Dot(), L2()])
def test_a_rule_without_a_write_gate_keeps_everything_with_a_token_of_zeros(bias: Any) -> None:
    always = GradientDescent(rate=0.5)  # linear attention with a decay: nobody asks a gate

    def rule(retention: Any) -> ComposedRule:
        return ComposedRule("fine", structure=Matrix(), bias=bias, retention=retention, algorithm=always)

    class Reversed(ScalarDecay):
        def keep(self, tokens: Tokens) -> Tensor:
            return 1.0 - super().keep(tokens)

    assert failed(check_rule(rule(ScalarDecay()))) == {}
    reason = failed(check_rule(rule(Reversed())))["retain-one-keeps-everything"]
    assert reason.startswith("retain 1 and a token of zeros change the memory by")


def test_the_strategies_without_their_faults_pass() -> None:
    for name in ("sequential", "chunkwise", "frozen"):
        assert failed(check_strategy(name, rules=[DELTA])) == {}


def test_global_torch_settings_are_put_back_after_a_member_that_changes_them() -> None:
    failed(FAULTS["default_dtype_changed"].run())
    assert torch.get_default_dtype() == torch.float32


class _Good:
    member = None


def suite() -> Suite[Any]:
    made: Suite[Any] = Suite("thing")

    @made.check
    def one_that_fails(case: Any) -> None:
        """Always."""
        raise Failed("it is so")

    @made.check
    def one_that_raises(case: Any) -> None:
        """Always."""
        raise KeyError("no\nsuch thing")

    @made.check
    def one_that_passes(case: Any) -> None:
        """Always."""

    return made


def test_outcomes_have_one_line_each_and_an_exception_is_a_finding() -> None:
    lines = [check.line for check in suite().run("x", _Good)]
    assert lines[0] == 'thing "x": can-be-made: passed'
    assert lines[1] == 'thing "x": one-that-fails: failed: it is so'
    assert lines[2].startswith('thing "x": one-that-raises: failed: raised KeyError')
    assert lines[3] == 'thing "x": one-that-passes: passed'
    assert all("\n" not in line for line in lines)


def test_a_declared_failure_is_expected_with_its_reason() -> None:
    found = {check.name: check for check in suite().run("x", _Good, {"one-that-fails": "known since birth"})}
    assert found["one-that-fails"].outcome == "expected"
    assert found["one-that-fails"].reason == "known since birth (it is so)"


def test_a_declared_failure_that_does_not_come_is_a_finding() -> None:
    found = {check.name: check for check in suite().run("x", _Good, {"one-that-passes": "thought so"})}
    assert found["one-that-passes"].outcome == "unexpected"
    assert not found["one-that-passes"].ok


def test_a_declaration_without_a_check_is_a_finding_with_the_nearest_name() -> None:
    found = {check.name: check for check in suite().run("x", _Good, {"one-that-fial": "misspelt"})}
    assert 'did you mean "one-that-fails"?' in found["one-that-fial"].reason


def test_a_member_declares_its_own_failures() -> None:
    class Odd(L2):
        affine = (1.0, 2.0)
        expected_failures = MappingProxyType({"affine-claim-reproduces-the-cotangent": "declared for this test"})

    checks = {check.name: check for check in check_bias(Odd())}
    assert checks["affine-claim-reproduces-the-cotangent"].outcome == "expected"
    assert all(check.ok for check in checks.values())


def test_a_member_that_cannot_be_made_is_one_finding() -> None:
    found = failed(check_rule("no-such-rule"))
    assert list(found) == ["can-be-made"]
    assert "no-such-rule" in found["can-be-made"]


def test_a_narrowed_gate_of_a_good_rule_passes() -> None:
    rule = ComposedRule(
        "narrow",
        structure=Matrix(),
        bias=L2(),
        retention=ScalarDecay(),
        algorithm=Momentum(),
        narrow={"retain": {"low": 0.5, "high": 0.9}},
    )
    assert isinstance(rule.gates["retain"], Gate)
    assert failed(check_rule(rule)) == {}
