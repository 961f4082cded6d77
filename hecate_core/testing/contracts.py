"""The contract of a registered rule against the live rule: whoever reads the specification must find what runs."""

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from hecate_core.composing import rule_of
from hecate_core.errors import InputError
from hecate_core.registry import registry
from hecate_core.testing.engine import Failed, Unasked
from hecate_core.testing.rules import RULE
from hecate_core.testing.samples import RuleCase

_CONTRACT = re.compile(r"^```CONTRACT\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@RULE.check
def contract_agrees_with_the_rule(case: RuleCase) -> None:
    """Inputs, gates, parameters and state tensors are those of the CONTRACT in the package's `specs/`.

    A contract tells the defaults, so it is held to the rule as its name alone makes it.
    """
    contract = _contract(case.rule.name, case.rule.spec)
    case = RuleCase(rule_of(case.rule.name), seed=case.seed)
    gates = {
        name: {"low": one.low, "high": one.high, "init": one.init} | ({"width": one.width} if one.width else {})
        for name, one in case.rule.gates.items()
    }
    has: dict[str, dict[str, Any]] = {
        "inputs": dict(case.rule.inputs),
        "gates": gates,
        "params": {name: one.axes for name, one in case.rule.params.items()},
    }
    for key, live in has.items():
        _demand_same(key, contract.get(key, {}), live)
    _demand_state(case, contract.get("state", {}))


def _contract(name: str, spec: str) -> dict[str, Any]:
    """The contract of a rule by its registered name; Unasked for a rule that nobody registered or that has no page."""
    try:
        component = registry().find("rule", name)
    except InputError:
        raise Unasked("not registered, so no package of its own carries a specification") from None
    if component.name != name:
        raise Unasked("registered under another name")
    if not spec:
        raise Unasked("it names no specification")
    page = Path(str(resources.files(component.target.split(".")[0].split(":")[0]))) / "specs" / spec
    if not page.exists():
        raise Unasked(f"no {spec} in the package's specs/")  # whether there has to be one is the linter's question
    try:
        found = _CONTRACT.findall(page.read_text(encoding="utf-8"))
        contract = tomllib.loads(found[0]) if len(found) == 1 else None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Failed(f'spec = "{spec}": {error}; expected a page with a CONTRACT in the package\'s specs/') from None
    if contract is None:
        raise Failed(f'spec = "{spec}": {len(found)} CONTRACT blocks; expected one')
    if contract.get("name") != name:
        raise Unasked("its page is that of another rule")
    return contract


def _demand_same(key: str, said: Mapping[str, Any], live: Mapping[str, Any]) -> None:
    for name in (*live, *said):
        if name not in live or name not in said:
            where, other = ("rule", "contract") if name in live else ("contract", "rule")
            raise Failed(f'{key}: "{name}" of the {where} is not in the {other}')
        if said[name] != live[name]:
            raise Failed(f"{key}: {name} is {live[name]}, the contract says {said[name]}")


def _demand_state(case: RuleCase, said: Mapping[str, str]) -> None:
    sizes = {**case.widths, "B": 3}
    live = {path: list(one.shape) for path, one in case.fresh(3).flat().items()}
    for path in (*live, *said):
        if path not in live or path not in said:
            where, other = ("rule", "contract") if path in live else ("contract", "rule")
            raise Failed(f'state: "{path}" of the {where} is not in the {other}')
        wanted = [sizes.get(letter) for letter in said[path].split()]
        if wanted != live[path]:
            raise Failed(f"state: {path} is {live[path]}, the contract says {said[path]} = {wanted}")
