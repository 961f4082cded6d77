"""The registry: two stages, states and reasons, addressing, independence of order."""

import random
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from hecate_core.config.reference import Reference
from hecate_core.errors import InputError, PluginError
from hecate_core.registry import Disabled, Origin, Plugin, PluginState, Registry, discover, install, registry

Install = Callable[..., Path]
KINDS = tomllib.loads((Path(__file__).parent / "plugins_broken" / "kinds.toml").read_text())["broken"]
NONE = Disabled()

PROVIDER = """
from hecate_core.hooks import hookimpl

@hookimpl
def hecate_components():
    return [("rule", "{name}", "{package}.rules:Rule"), ("bias", "l9", "{package}.rules:make_bias")]
"""

RULES = """
from typing import TYPE_CHECKING, Literal
if TYPE_CHECKING:
    from nowhere import Tensor

class Rule:
    def __init__(self, *, width: int = 4, rate: float = 0.5, norm: Literal["rms", "none"] = "rms",
                 periods: list[int] | None = None, weight: "Tensor" = None, fault: str = ""):
        if fault:
            raise {"value": ValueError, "other": OSError}[fault]("the fault\\nasked for")
        self.width, self.rate, self.norm, self.periods = width, rate, norm, periods

def make_bias(**options):
    return options
"""


def provider(distribution: Install, dist: str = "acme", name: str = "delta9", **more: str) -> Path:
    package = f"{dist.replace('-', '_')}_plugin"
    folder = distribution(dist, PROVIDER.format(name=name, package=package), **more)
    (folder / "rules.py").write_text(RULES)
    return folder


def loaded(site: Path, disabled: Disabled = NONE) -> Registry:
    return Registry(discover([str(site)]), disabled)


def only(found: Registry) -> Plugin:
    (plugin,) = found.plugins()
    return plugin


def test_a_good_plugin_is_ok_with_its_origin_and_its_class_is_not_imported(site: Path, distribution: Install) -> None:
    provider(distribution, version="2.1")
    found = loaded(site)
    assert only(found).state is PluginState.OK
    assert only(found).origin == Origin("acme", "2.1", "acme", "acme_plugin.plugin")
    assert found.names("rule") == ["delta9"]
    assert "acme_plugin.rules" not in sys.modules
    assert found.component("rule", "delta9").__name__ == "Rule"
    assert "acme_plugin.rules" in sys.modules


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["name"])
def test_a_broken_plugin_is_one_line_and_stops_nobody(
    kind: dict[str, str], site: Path, distribution: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    distribution(kind["name"], kind["source"])
    provider(distribution)
    broken, good = sorted(loaded(site).plugins(), key=lambda plugin: plugin.origin.distribution == "acme")
    assert broken.state == kind["state"]
    assert kind["reason"] in broken.reason
    assert "\n" not in broken.line
    assert broken.components == ()
    assert good.state is PluginState.OK
    assert capsys.readouterr().out == ""


def test_all_broken_kinds_together_give_the_same_result_in_any_order(site: Path, distribution: Install) -> None:
    for kind in KINDS:
        distribution(kind["name"], kind["source"])
    provider(distribution, "acme", "delta9")
    provider(distribution, "zeta", "delta9")
    origins = discover([str(site)])
    first = [plugin.record() for plugin in Registry(origins, NONE).plugins()]
    assert len(first) == len(KINDS) + 2
    for seed in range(10):
        random.Random(seed).shuffle(origins)
        for name in [name for name in sys.modules if name.endswith(("_plugin", ".plugin")) and "hecate" not in name]:
            del sys.modules[name]
        assert [plugin.record() for plugin in Registry(origins, NONE).plugins()] == first


def test_the_order_of_a_directory_listing_changes_nothing(
    site: Path, distribution: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider(distribution, version="1.0")
    provider(distribution, version="1.1")
    found = discover([str(site)])
    from importlib import metadata

    listed = metadata.distributions
    monkeypatch.setattr(metadata, "distributions", lambda **given: reversed(list(listed(**given))))
    assert discover([str(site)]) == found
    assert [origin.version for origin in found] == ["1.1"]


def test_interrupting_an_import_is_no_fault_of_the_plugin(site: Path, distribution: Install) -> None:
    distribution("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        loaded(site)


def test_damaged_metadata_stops_nobody(site: Path, distribution: Install) -> None:
    distribution("damaged", "", entry_points="[hecate]\nwithout a value\n")
    distribution("attribute", "", entry_points="[hecate]\nx = attribute_plugin.plugin:thing\n")
    distribution("nameless", "", entry_points="[hecate]\nx = nameless_plugin.plugin\n")
    (site / "nameless-1.0.dist-info" / "METADATA").write_text("")
    provider(distribution)
    states = {plugin.origin.distribution: plugin for plugin in loaded(site).plugins()}
    assert states["acme"].state is PluginState.OK
    assert "entry_points.txt cannot be read" in states["damaged"].reason
    assert "expected the path of a module" in states["attribute"].reason
    assert "nameless" not in states


def test_a_taken_name_is_an_error_only_when_it_is_used_bare(site: Path, distribution: Install) -> None:
    provider(distribution, "acme", "delta9")
    provider(distribution, "zeta", "delta9")
    found = loaded(site)
    assert [plugin.state for plugin in found.plugins()] == [PluginState.CONFLICT] * 2
    assert 'bias "l9" is also provided by zeta/zeta (and 1 more names); write "acme:l9"' in found.plugins()[0].reason
    assert found.names("rule") == ["acme:delta9", "zeta:delta9"]
    with pytest.raises(InputError, match=r"provided by acme/acme and zeta/zeta; write 'acme:delta9' or 'zeta:delta9'"):
        found.component("rule", "delta9")
    assert found.component("rule", "acme:delta9").__module__ == "acme_plugin.rules"
    assert found.component("rule", "Zeta:delta9").__module__ == "zeta_plugin.rules"


def test_one_distribution_that_takes_its_own_name_by_two_entry_points(site: Path, distribution: Install) -> None:
    points = "[hecate]\na = acme_plugin.plugin\nb = acme_plugin.plugin\n"
    provider(distribution, entry_points=points)
    with pytest.raises(InputError, match="acme/a and acme/b; disable one of these entry points"):
        loaded(site).component("rule", "acme:delta9")
    one = loaded(site, Disabled.of(["acme/b"], environment={}))
    assert one.component("rule", "delta9")


@pytest.mark.parametrize("name", ["acme-rules", "Acme_Rules", "acme.rules/first", "first"])
def test_a_disabled_plugin_is_not_imported(name: str, site: Path, distribution: Install) -> None:
    distribution("acme-rules", "raise RuntimeError", entry_points="[hecate]\nfirst = acme_rules_plugin.plugin\n")
    plugin = only(loaded(site, Disabled.of([name], place="config.toml:3", environment={})))
    assert (plugin.state, plugin.reason) == (PluginState.DISABLED, "by config.toml:3")
    assert "acme_rules_plugin.plugin" not in sys.modules


def test_the_environment_disables_and_a_useless_name_is_one_line(site: Path, distribution: Install) -> None:
    provider(distribution)
    provider(distribution, "beta", "other")
    found = loaded(site, Disabled.of(environment={"HECATE_DISABLE_PLUGINS": "beta, acm"}))
    assert [plugin.state for plugin in found.plugins()] == [PluginState.OK, PluginState.DISABLED]
    assert found.complaints() == [
        'HECATE_DISABLE_PLUGINS: plugin "acm" is to be disabled but is not installed; did you mean "acme"?'
    ]


@pytest.mark.usefixtures("fresh_registry")
def test_the_process_registry_can_be_made_without_strangers(site: Path, distribution: Install) -> None:
    provider(distribution)
    assert install(strangers=False) is registry()
    states = {plugin.origin.distribution: plugin for plugin in registry().plugins()}
    assert states["acme"].reason == "by --no-plugins"
    assert states["hecate-core"].state is not PluginState.DISABLED
    assert "acme_plugin.plugin" not in sys.modules
    made = install(["hecate-titans"], place="c.toml")  # keeps what --no-plugins said
    assert {plugin.origin.distribution: plugin.reason for plugin in made.plugins()}["acme"] == "by --no-plugins"
    assert install(["hecate-titans"], place="c.toml") is made


def test_an_unknown_name_has_the_nearest_and_the_plugins_that_are_missing(site: Path, distribution: Install) -> None:
    provider(distribution)
    distribution("raises", "raise ValueError")
    found = loaded(site)
    with pytest.raises(InputError, match=r'rule "dleta9" is not installed; did you mean "delta9"\? .*raises.*broken'):
        found.component("rule", "dleta9")
    with pytest.raises(InputError, match=r'"rul" is not a kind of component; did you mean "rule"\?'):
        found.component("rul", "delta9")
    with pytest.raises(InputError, match=r'no plugin "acm" is installed; did you mean "acme"\?'):
        found.component("rule", "acm:delta9")
    with pytest.raises(PluginError, match=r"is needed, but plugin .*broken: failed to import"):
        found.component("rule", "raises:delta9")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("import sys; sys.exit(1)", "failed to import acme_plugin.rules: called sys.exit"),
        ("class Ruel: pass", 'acme_plugin.rules has no "Rule"; did you mean "Ruel"'),
        ("Rule = 3", "is a int; expected a class or factory"),
    ],
)
def test_a_class_that_does_not_load_is_one_line(rules: str, message: str, site: Path, distribution: Install) -> None:
    (provider(distribution) / "rules.py").write_text(rules)
    with pytest.raises(PluginError, match=message) as raised:
        loaded(site).component("rule", "delta9")
    assert "\n" not in str(raised.value)


def test_create_takes_a_name_or_a_table_and_what_the_caller_gives(site: Path, distribution: Install) -> None:
    provider(distribution)
    found = loaded(site)
    assert found.create("rule", "delta9").width == 4
    made = found.create("rule", {"name": "acme:delta9", "rate": 1, "periods": [1, 2]}, width=9)
    assert (made.width, made.rate, made.periods) == (9, 1.0, [1, 2])
    assert isinstance(made.rate, float)
    assert found.create("rule", Reference("delta9", {"periods": "none"})).periods is None
    assert found.create("bias", {"name": "l9", "anything": 1}) == {"anything": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widht": 3}, 'unknown option "widht"; did you mean "width"?'),
        ({"width": "3"}, 'width = "3"; expected an integer'),
        ({"width": True}, "width = true; expected an integer"),
        ({"rate": "fast"}, 'rate = "fast"; expected a finite number'),
        ({"norm": "layer"}, 'norm = "layer"; expected one of "rms", "none"'),
        ({"periods": [1, "x"]}, 'periods[1] = "x"; expected an integer'),
        ({"fault": "value"}, "ValueError: the fault asked for"),
        ({"given": 3}, 'option "given" is set by the caller already; leave it out'),
    ],
)
def test_a_wrong_option_is_one_line_with_its_place(
    options: dict[str, object], message: str, site: Path, distribution: Install
) -> None:
    provider(distribution)
    given = {"given": 1} if "given" in options else {}
    with pytest.raises(InputError) as raised:
        loaded(site).create("rule", Reference("delta9", options, "c.toml:7: model.rule"), **given)
    assert str(raised.value).startswith('c.toml:7: model.rule: rule "delta9": ')
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_constructor_that_fails_otherwise_is_a_fault_of_the_plugin(site: Path, distribution: Install) -> None:
    provider(distribution)
    with pytest.raises(PluginError, match="cannot be made: OSError: the fault asked for"):
        loaded(site).create("rule", {"name": "delta9", "fault": "other"})


def test_used_plugins_have_a_digest_of_their_files(site: Path, distribution: Install) -> None:
    folder = provider(distribution)
    provider(distribution, "beta", "other")
    found = loaded(site)
    assert found.used() == ()
    with found.recording() as recording:
        found.component("rule", "delta9")
    found.component("rule", "other")
    assert [one.distribution for one in recording.used()] == ["acme"]
    assert [one.distribution for one in found.used()] == ["acme", "beta"]
    (before,) = recording.used()
    assert before.version == "1.0"

    def digest_in_another_process() -> str:
        found = loaded(site)
        found.component("rule", "delta9")
        return found.used()[0].digest

    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "x.cubin").write_bytes(b"noise")
    (folder / "x.pyc").write_bytes(b"noise")
    assert digest_in_another_process() == before.digest
    (folder / "rule.cu").write_text("__global__ void f() {}")
    assert digest_in_another_process() != before.digest
    assert recording.used() == (before,)  # this process goes on with what it imported


def test_a_manifest_demands_its_plugins(site: Path, distribution: Install) -> None:
    folder = provider(distribution)
    found = loaded(site)
    found.component("rule", "delta9")
    records = [one.record() for one in found.used()]
    assert found.demand(records) == []
    (folder / "rules.py").write_text(RULES + "# changed\n")
    (line,) = loaded(site).demand(records)
    assert line.startswith("plugin acme 1.0 (digest ")
    without = loaded(site, Disabled.of(["acme"], environment={}))
    with pytest.raises(PluginError, match=r"acme 1.0 is needed; plugin .* is disabled: by config"):
        without.demand(records)
    with pytest.raises(PluginError, match=r"acme 1.0 is needed but not installed"):
        Registry([], NONE).demand(records)
