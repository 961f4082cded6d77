"""`hecate check` holds the contract in a stranger's package to the rule that it registers."""

from pathlib import Path

import pytest

from hecate_core.composing import rule_of
from hecate_core.registry import install
from hecate_core.testing.contracts import contract_agrees_with_the_rule
from hecate_core.testing.engine import Failed, Unasked
from hecate_core.testing.everything import SUITES
from hecate_core.testing.samples import RuleCase

from .conftest import FakeDistribution

PLUGIN = """
from hecate_core.hooks import hookimpl

@hookimpl
def hecate_components():
    return [("rule", "fading", "acme_plugin.rules:fading")]
"""
RULES = """
from hecate_core.api import ComposedRule, GradientDescent, L2, Matrix, ScalarDecay

def fading(*, reach: float = 1.0) -> ComposedRule:
    knobs = {"structure": Matrix(), "bias": L2(), "retention": ScalarDecay()}
    return ComposedRule("fading", **knobs, algorithm=GradientDescent(at="kept", reach=reach), spec="rules/fading.md")
"""
SPEC = """# fading

```CONTRACT
kind = "rule"
name = "fading"
inputs = { q = "K", k = "K", v = "V" }
state = { "memory.matrix" = "B H V K" }
params = { matrix = "H V K" }
[gates]
retain = { low = 0.0, high = 0.9999, init = 0.98 }
write = { low = 0.0, high = 1.0, init = 0.5 }
```
"""


def told(package: Path, spec: str | None, rule: object = "fading") -> tuple[str, str]:
    """Outcome and reason of the check."""
    (package / "rules.py").write_text(RULES)
    if spec is not None:
        (package / "specs/rules").mkdir(parents=True)
        (package / "specs/rules/fading.md").write_text(spec)
    install()
    try:
        contract_agrees_with_the_rule(RuleCase(rule_of(rule)))
    except (Failed, Unasked) as outcome:
        return type(outcome).__name__.lower(), str(outcome)
    return "passed", ""


@pytest.mark.usefixtures("fresh_registry")
@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("", "", ""),
        ("high = 1.0", "high = 2.0", "gates: write is {'low': 0.0, 'high': 1.0, 'init': 0.5}, the contract says"),
        ("write =", "wirte =", 'gates: "write" of the rule is not in the contract'),
        ('v = "V"', 'v = "K"', "inputs: v is V, the contract says K"),
        ('matrix = "H V K"', 'matrix = "H K V"', "params: matrix is H V K, the contract says H K V"),
        ("memory.matrix", "memory.m", 'state: "memory.matrix" of the rule is not in the contract'),
        ('"B H V K"', '"B V K"', "the contract says B V K = "),
        ("```CONTRACT", "```toml", "0 CONTRACT blocks; expected one"),
        ("kind =", "kind", "expected a page with a CONTRACT"),
    ],
)
def test_a_contract_that_differs_is_found(distribution: FakeDistribution, old: str, new: str, line: str) -> None:
    outcome, reason = told(distribution("acme", PLUGIN), SPEC.replace(old, new) if old else SPEC)
    assert outcome == ("failed" if line else "passed"), reason
    assert line in reason


@pytest.mark.usefixtures("fresh_registry")
def test_a_page_that_is_not_there_is_nothing_to_hold_to_and_options_do_not_matter(
    distribution: FakeDistribution,
) -> None:
    package = distribution("acme", PLUGIN)
    assert told(package, None)[0] == "unasked"  # whether there has to be one is a rule of the linter, KN-02
    assert told(package, SPEC, {"name": "fading", "reach": 2.0}) == ("passed", "")


def test_the_kit_asks_every_rule() -> None:
    assert "contract-agrees-with-the-rule" in SUITES["rule"].names
