"""The kit over every rule in each form that its options give it (`make soak`); defaults are in test_conformance.py."""

import inspect
from collections.abc import Mapping
from typing import Any

import pytest

from hecate_core.registry import registry
from hecate_core.testing.rules import check_rule

from .rule_forms import CASES, FORMS


@pytest.mark.soak
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda part: str(part).replace(" ", ""))
def test_every_form_of_every_rule_conforms(name: str, options: Mapping[str, Any]) -> None:
    checks = list(check_rule({"name": name, **options}))
    assert len(checks) > 20
    assert [check.line for check in checks if not check.ok] == []


@pytest.mark.parametrize("name", registry().names("rule"))
def test_no_option_that_chooses_a_form_is_left_out(name: str) -> None:
    """Options of words and of yes and no, and depths, have a value beside their default among the forms."""
    for option in inspect.signature(registry().component("rule", name)).parameters.values():
        if isinstance(option.default, (str, bool)) or option.name in ("depth", "window"):
            others = [one for one in FORMS[name] if one.get(option.name, option.default) != option.default]
            assert others, f"{name}: {option.name} is always {option.default!r}"
