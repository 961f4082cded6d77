"""The kit over everything registered, and random shapes, cuts and masks for every rule and strategy."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hecate_core.composing import rule_of, strategy_of
from hecate_core.errors import CompositionError, InputError
from hecate_core.parameters import initial_params
from hecate_core.registry import registry
from hecate_core.testing.everything import check_member, check_registered, members
from hecate_core.testing.hypotheses import chunks, cuts, masks, tokens, widths
from hecate_core.testing.samples import relative
from hecate_core.widths import full_widths

RULES = registry().names("rule")
STRATEGIES = [name for name in registry().names("strategy") if name != "sequential"]
EXACT = 1e-9  # float64: the same sums in another order


@pytest.mark.parametrize(("kind", "name"), members(), ids=lambda part: str(part))
def test_every_registered_member_conforms(kind: str, name: str) -> None:
    assert [check.line for check in check_member(kind, name) if not check.ok] == []


def test_the_kit_can_be_kept_to_one_distribution() -> None:
    subjects = {check.subject for check in check_registered("hecate-core")}
    assert 'structure "matrix"' in subjects
    assert not any(subject.startswith("rule") for subject in subjects)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_shape_cut_and_mask_equals_the_token_loop(name: str, data: st.DataObject) -> None:
    """Exact strategies against `sequential` in one call, approximate ones against themselves uncut."""
    rule, sizes = rule_of(name), data.draw(widths())
    try:
        params = initial_params(rule, full_widths(rule, sizes), dtype=torch.float64)
        given_tokens = data.draw(tokens(rule, sizes))
        rule.step(
            params,
            rule.init_state(params, 1),
            given_tokens.map(lambda one: one.new_zeros(1, *one.shape[1:2], *one.shape[3:])),
        )
    except InputError:
        return  # these widths are refused, with a reason
    batch, _, count = given_tokens.q.shape[:3]
    mask = data.draw(st.one_of(st.none(), masks(batch, count)))
    for chosen in STRATEGIES:
        try:
            strategy = strategy_of(chosen, rule, chunk=data.draw(chunks()))
        except CompositionError:
            continue
        reference = strategy_of("sequential", rule) if strategy.exact else strategy
        expected, _ = reference(rule, params, given_tokens, reference.init_state(rule, params, batch), mask)
        state, reads, at = strategy.init_state(rule, params, batch), [], 0
        for size in data.draw(cuts(count)):
            piece = given_tokens.map(lambda one, a=at, n=size: one[:, :, a : a + n])  # type: ignore[misc]
            part = None if mask is None else mask[:, at : at + size]
            y, state = strategy(rule, params, piece, state, part)
            reads.append(y)
            at += size
        assert relative(torch.cat(reads, 2), expected) < EXACT, chosen
        assert state.position == count


def pytest_of(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "hecate_core.testing.pytest_plugin", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_pytest_plugin_makes_a_test_of_every_check(tmp_path: Path) -> None:
    done = pytest_of(tmp_path, "--hecate-plugin", "hecate-core", "-k", "dot", "-v")
    assert done.returncode == 0, done.stdout
    assert "hecate::bias::dot::affine-claim-reproduces-the-cotangent PASSED" in done.stdout
    assert "hecate::bias::dot::cotangent-equals-the-gradient-of-its-loss SKIPPED" in done.stdout


def test_the_pytest_plugin_refuses_a_distribution_without_components(tmp_path: Path) -> None:
    done = pytest_of(tmp_path, "--hecate-plugin", "no-such-dist")
    assert done.returncode == 4
    assert "no-such-dist: it registers nothing that the kit can check" in done.stdout + done.stderr
