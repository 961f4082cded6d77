"""Specifications against the live components: contracts agree, worked examples run, nothing lacks a spec."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import pytest

from hecate_core.composed import ComposedRule
from hecate_core.composing import rule_of
from hecate_core.forms import Affine, Linearised, Refused, Sequenced
from hecate_core.gates import Gate
from hecate_core.parameters import initial_params
from hecate_core.protocols import MemoryRule
from hecate_core.registry import registry
from hecate_core.registry.origin import Component
from hecate_core.widths import full_widths

from .specs import ROOT, Spec, components, examples_of, installed_spec, package_specs, read, specs_in

WIDTHS = {"B": 2, "H": 3, "K": 5, "V": 7, "M": 11}
SECTIONS = ("Idea", "Equations", "Options", "Worked example")
SECTIONS_OF_A_RULE = (*SECTIONS, "Gradient (VJP)", "Stability and ranges", "Identities")
CORE_STRATEGIES = ("sequential", "chunkwise", "frozen")
NEEDS = {None: "none", Affine: "Affine", Linearised: "Linearised"}
# What the one who makes a component hands over, by kind: no option of its user.
GIVEN = {"strategy": ("pair", "step_pair", "link_pair"), "composition": ("width", "window")}
PLAIN = (bool, int, float, str, list, tuple, dict, type(None))

every_component = pytest.mark.parametrize("component", components(), ids=lambda one: f"{one.kind}-{one.name}")
every_rule = pytest.mark.parametrize("name", registry().names("rule"))


def written(value: Any) -> Any:
    """A default as TOML has it."""
    if value is None:
        return "none"
    return list(value) if isinstance(value, tuple) else value


def spec_of_rule(name: str) -> tuple[Spec, MemoryRule]:
    return installed_spec(registry().find("rule", name)), rule_of(name)


@every_component
def test_contract_names_the_component(component: Component) -> None:
    contract = installed_spec(component).contract
    assert contract["component"] == component.target
    assert contract["sources"], "where the mathematics comes from; own work is derived in a form's spec"


@every_component
def test_contract_lists_the_options_and_their_defaults(component: Component) -> None:
    factory = registry().component(component.kind, component.name)
    parameters = inspect.signature(factory).parameters.values()
    given = GIVEN.get(component.kind, ())
    defaults = {one.name: one.default for one in parameters if isinstance(one.default, PLAIN) and one.name not in given}
    plain = {name: written(value) for name, value in defaults.items()}
    assert installed_spec(component).contract.get("options", {}) == plain


@every_component
def test_spec_has_its_sections_and_a_worked_example_that_runs(component: Component) -> None:
    spec = installed_spec(component)
    wanted = SECTIONS_OF_A_RULE if component.kind == "rule" else SECTIONS
    assert [one for one in wanted if one not in spec.sections] == []
    assert spec.text.count("assert ") >= 1
    space: dict[str, Any] = {"__name__": "worked_example"}
    for example in spec.examples:
        exec(compile(example, str(spec.path), "exec"), space)


def gates_as_written(gates: Mapping[str, Gate]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, gate in gates.items():
        found[name] = {"low": gate.low, "high": gate.high, "init": gate.init}
        if gate.width is not None:
            found[name]["width"] = gate.width
    return found


@every_rule
def test_contract_of_a_rule_agrees_with_the_live_rule(name: str) -> None:
    spec, rule = spec_of_rule(name)
    contract = spec.contract
    assert dict(rule.inputs) == contract["inputs"]
    assert gates_as_written(rule.gates) == contract.get("gates", {})
    assert {key: one.axes for key, one in rule.params.items()} == contract["params"]
    assert (package_specs(registry().find("rule", name)) / rule.spec).samefile(spec.path), "rule.spec"


@every_rule
def test_contract_names_every_state_tensor_with_its_axes(name: str) -> None:
    spec, rule = spec_of_rule(name)
    widths = full_widths(rule, WIDTHS)
    state = rule.init_state(initial_params(rule, widths), WIDTHS["B"])
    axes = spec.contract["state"]
    assert list(state.flat()) == list(axes)
    for path, tensor in state.flat().items():
        assert list(tensor.shape) == [widths[letter] for letter in axes[path].split()], path


@every_rule
def test_contract_lists_the_strategies_that_serve_the_rule(name: str) -> None:
    spec, rule = spec_of_rule(name)
    found = {}
    for strategy in {*CORE_STRATEGIES, *spec.contract["strategies"]}:
        made = registry().create("strategy", strategy)
        form: Any = None if made.needs is None else rule.offers(made.needs)
        if not isinstance(form, Refused):
            found[strategy] = "exact" if made.exact or getattr(form, "exact", False) else "approximate"
    assert found == spec.contract["strategies"]


@every_rule
def test_contract_names_the_op_that_serves_the_rule(name: str) -> None:
    spec, rule = spec_of_rule(name)
    for wanted in (Affine, Sequenced):
        form: object = rule.offers(wanted)  # type: ignore[type-var]
        if isinstance(form, wanted):
            assert spec.contract["pair"] == form.op
    linearised = rule.offers(Linearised)
    inner: list[Any] = [] if isinstance(linearised, Refused) else [linearised.step_map, linearised.link]
    for one in inner:
        if hasattr(one, "op"):
            assert spec.contract["pair"] == one.op


@every_rule
def test_contract_names_the_knobs(name: str) -> None:
    spec, rule = spec_of_rule(name)
    if not isinstance(rule, ComposedRule):
        assert "knobs" not in spec.contract, "only a rule made of the four knobs has them"
        return
    assert list(spec.contract["knobs"]) == ["structure", "bias", "retention", "algorithm"]
    for kind, written in spec.contract["knobs"].items():
        live, made = getattr(rule, kind), knob(kind, written)
        assert type(live) is type(made), f"{kind} = {written}"
        assert plain_attributes(live) == plain_attributes(made), f"{kind} = {written}"


def knob(kind: str, written: str) -> Any:
    """`gd(at=kept, rate=1.0)` as the component it stands for."""
    name, options = written.partition("(")[::2]
    given: dict[str, Any] = {}
    for key, value in re.findall(r"(\w+)=([^,)]+)", options):
        number = re.fullmatch(r"-?\d[\d.e-]*", value)
        given[key] = float(value) if number else {"true": True, "false": False}.get(value, value)
    return registry().create(kind, {"name": name, **given} if given else name)


def plain_attributes(of: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(of).items() if isinstance(value, PLAIN)}


@every_component
def test_contract_of_a_knob_agrees_with_the_live_knob(component: Component) -> None:
    contract = installed_spec(component).contract
    if component.kind in ("bias", "retention", "algorithm"):
        made = registry().create(component.kind, component.name)
        assert gates_as_written(made.gates) == contract.get("gates", {})
        assert described(component.kind, made) == {key: contract[key] for key in described(component.kind, made)}
    elif component.kind == "structure":
        made = registry().create("structure", component.name)
        assert {name: " ".join(axes) for name, axes in made.layers.items()} == contract["layers"]
        assert made.linear == contract.get("linear", False)
        axes = {name: one.axes for name, one in made.params.items()}
        assert axes.items() <= contract["params"].items(), "params of the default options, at least"


def described(kind: str, made: Any) -> dict[str, Any]:
    """What a knob declares beside its gates, as its contract writes it."""
    if kind == "bias":
        return {"affine": "none" if made.affine is None else list(made.affine)}
    if kind == "retention":
        maps = {name: getattr(made, name) is not None for name in ("link", "inverse", "project")}
        return {"axis": made.axis, "domain": made.domain, **maps}
    maps = {"step_map": made.step_map is not None}
    return {"at": made.at, "has_momentum": made.has_momentum, "erases": made.erases, **maps}


@every_component
def test_contract_of_a_strategy_or_composition_agrees(component: Component) -> None:
    contract = installed_spec(component).contract
    factory = registry().component(component.kind, component.name)
    if component.kind == "strategy":
        made = registry().create("strategy", component.name)
        assert {"needs": NEEDS[made.needs], "exact": made.exact}.items() <= contract.items()
    elif component.kind == "composition":
        wants = {key: getattr(factory, key) for key in ("attends", "remembers", "recalls")}
        assert wants.items() <= contract.items()


def test_a_package_carries_exactly_the_specs_of_its_distribution() -> None:
    """The link in a package leads to the file in specs/, so there is one text and it cannot go stale."""
    strays = []
    for component in components():
        folder = package_specs(component)
        for path in folder.rglob("*.md"):
            spec = read(path)
            if spec is not None and spec.contract["distribution"] != component.origin.distribution:
                strays.append(str(path))
            if not path.samefile(ROOT / path.relative_to(folder)):
                strays.append(str(path))
    assert strays == []


def test_every_spec_speaks_of_a_registered_component() -> None:
    everything = [one for plugin in registry().plugins() for one in plugin.components]
    known = {(one.origin.distribution, one.kind, one.name) for one in everything}
    assert [str(one.path) for one in specs_in(ROOT) if one.address not in known] == []


PROSE = sorted(path for path in ROOT.rglob("*.md") if read(path) is None)


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_in_prose_run_and_core_carries_it(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    space: dict[str, Any] = {"__name__": "worked_example"}
    for example in examples_of(text):
        exec(compile(example, str(path), "exec"), space)
    core = registry().find("strategy", "sequential")
    assert (package_specs(core) / path.relative_to(ROOT)).samefile(path)
