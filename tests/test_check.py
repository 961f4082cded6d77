"""`hecate check`: planted architecture faults, broken members, the table, covering rows, and the command."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hecate_core.checking.architecture import ARCHITECTURE, ModelCase, _memory, _same
from hecate_core.checking.cells import axes, config_of, covering_rows, impossible, tiny
from hecate_core.checking.dry_run import DRY_RUN, DryRun
from hecate_core.checking.findings import check_config, check_plugin, check_rule_everywhere
from hecate_core.checking.memory import estimate
from hecate_core.checking.validity import OWN, table_lines, validity
from hecate_core.cli.main import run
from hecate_core.composing import rule_of
from hecate_core.config import Config, make_config
from hecate_core.errors import InputError
from hecate_core.model import LanguageModel
from hecate_core.records import State
from hecate_core.registry import Registry, install, registry
from hecate_core.registry import lookup as process

from .planted_faults import FAULTS

LEVELS = [{}, {"write_period": 2, "update_period": 2, "reset_period": 3}]


def model_config(**model: object) -> Config:
    memory = {"levels": LEVELS, "chunk": 4, "grain": 5}
    return make_config({"model": {"depth": 1, "memory": memory, **model}})


def found_in(config: Config) -> dict[str, str]:
    small = tiny(config)
    checks = itertools.chain(
        ARCHITECTURE.run("tested", lambda: ModelCase(small)), DRY_RUN.run("tested", lambda: DryRun(small))
    )
    return {check.name: check.reason for check in checks if not check.ok}


def test_there_are_enough_planted_faults() -> None:
    assert len(FAULTS) >= 20


def test_a_model_without_faults_passes() -> None:
    assert found_in(model_config()) == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_by_the_check_named_after_it(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[fault].plant(monkeypatch)
    found = found_in(model_config())
    assert FAULTS[fault].told_by in found
    assert "\n" not in found[FAULTS[fault].told_by]


@pytest.mark.parametrize("composition", registry().names("composition"))
def test_every_composition_passes_as_a_whole_model(composition: str) -> None:
    assert found_in(model_config(composition=composition)) == {}


RULES = sorted(
    {(cell.rule, cell.strategy) for cell in validity() if cell.retention == OWN and cell.verdict != "invalid"}
)


@pytest.mark.parametrize(("rule", "strategy"), RULES)
def test_every_rule_passes_as_a_whole_model_under_its_strategies(rule: str, strategy: str) -> None:
    """Without resets: what a strategy reads behind a long chunk of its own would never be read."""
    levels = [{}, {"write_period": 2, "update_period": 2}]
    memory = {"rule": rule, "strategy": strategy, "levels": levels, "chunk": 4, "grain": 4}
    small = tiny(make_config({"model": {"depth": 1, "memory": memory}}))
    assert [check.line for check in ARCHITECTURE.run("tested", lambda: ModelCase(small)) if not check.ok] == []


def test_a_shrunk_config_keeps_its_choices() -> None:
    big = make_config(
        {
            "model": {"width": 512, "heads": 8, "depth": 12, "norm": "layer", "memory": {"chunk": 64, "grain": 128}},
            "run": {"dtype": "float64"},
        }
    )
    small = tiny(big)
    assert (small.model.width, small.model.heads, small.model.depth) == (8, 2, 2)
    assert small.model.norm == "layer"
    assert small.run.dtype == "float64"
    assert small.model.memory is not None
    assert (small.model.memory.chunk, small.model.memory.grain) == (5, 10)


def test_covering_rows_hold_every_pair_of_settings_that_is_possible() -> None:
    choices = axes()
    rows, refused = covering_rows(choices)
    held = set()
    for row in rows:
        index = {name: choices[name].index(value) for name, value in row.items()}
        held |= {(one, index[one], two, index[two]) for one, two in itertools.combinations(choices, 2)}
    wanted = {
        (one, i, two, j)
        for one, two in itertools.combinations(choices, 2)
        for i in range(len(choices[one]))
        for j in range(len(choices[two]))
    }
    assert wanted == held | set(refused)
    assert not held & set(refused)
    assert all(reason for reason in refused.values())
    assert all(impossible(row) is None for row in rows)


def test_covering_rows_are_the_same_every_time() -> None:
    assert covering_rows() == covering_rows()


def test_the_table_has_a_cell_for_every_combination_and_a_reason_for_every_refusal() -> None:
    cells = list(validity())
    names = registry().names
    retentions = [OWN, *names("retention")]
    keys = {(cell.rule, cell.retention, cell.strategy, cell.composition) for cell in cells}
    assert keys == set(itertools.product(names("rule"), retentions, names("strategy"), names("composition")))
    assert len(keys) == len(cells)
    for cell in cells:
        assert (cell.verdict == "invalid") == bool(cell.reason)
        assert cell.verdict in ("exact", "approximate", "invalid")


def test_the_table_says_what_the_forms_say() -> None:
    cells = {
        (cell.rule, cell.strategy): cell for cell in validity() if cell.retention == OWN and cell.composition == "lmm"
    }
    assert cells["delta", "chunkwise"].verdict == "exact"
    assert cells["delta", "frozen"].verdict == "approximate"
    assert cells["linear", "frozen"].verdict == "exact"
    assert cells["titans-deep", "chunkwise"].reason == "structure: not linear in its weights"
    assert "titans-deep: chunkwise invalid (structure: not linear in its weights); frozen approximate" in "\n".join(
        table_lines(list(validity(["titans-deep"])))
    )


def test_the_estimate_counts_what_a_real_model_holds() -> None:
    config = model_config(width=32)
    from hecate_core.blueprint import compose

    model: LanguageModel = compose(config)
    rows = {row.name: row.bytes for row in estimate(config)}
    assert rows["parameters"] == sum(4 * one.numel() for one in model.parameters())
    assert rows["optimizer"] == 2 * rows["parameters"]
    state = model.init_state(config.data.batch)
    assert rows["carried memory"] == 2 * sum(one.numel() * one.element_size() for one in state.flat().values())
    longer = {row.name: row.bytes for row in estimate(make_config({"model": {"width": 32}, "data": {"length": 512}}))}
    shorter = {row.name: row.bytes for row in estimate(make_config({"model": {"width": 32}, "data": {"length": 256}}))}
    assert 1.8 < longer["saved activations"] / shorter["saved activations"] < 2.2


def test_one_rule_runs_in_every_cell_of_its_own() -> None:
    found = check_rule_everywhere("hebbian")
    assert found.failed == []
    assert found.runs == sum(cell.retention == OWN and cell.verdict != "invalid" for cell in found.cells)


def test_a_twin_that_never_writes_passes_as_the_one_that_does() -> None:
    """A comparison needs it; nothing hears of its memory, on purpose."""
    memory = {"rule": "titans", "chunk": 8, "writes": False}
    table = {"data": {"batch": 2, "length": 16}, "model": {"width": 16, "heads": 2, "depth": 1, "memory": memory}}
    assert check_config(make_config(table)).failed == []


def test_a_rule_may_call_its_memory_what_it_likes() -> None:
    """One tensor, a record of several, or another name: each is what a resting level must not change."""
    one, two = torch.zeros(2), torch.ones(2)
    for state in (State(memory=one), State(memory=State(matrix=one)), State(held=one)):
        assert _same(_memory(state), _memory(state.map(torch.clone)))
        assert not _same(_memory(state), _memory(state.map(lambda _: two)))


def test_a_config_names_its_members_and_they_are_checked() -> None:
    found = check_config(model_config())
    assert found.failed == []
    subjects = {check.subject for check in found.checks}
    assert {
        'rule "titans"',
        'strategy "chunkwise"',
        'composition "mag"',
        'architecture "mag"',
        'model "mag"',
    } <= subjects
    assert found.estimates


def test_every_cell_of_a_rule_with_another_retention_can_be_run() -> None:
    from hecate_core.checking.findings import Findings, _dry_cell

    found = Findings()
    for cell in validity(["delta"]):
        if cell.verdict != "invalid" and cell.composition == "lmm" and cell.retention != OWN:
            _dry_cell(cell, found, None)
    assert found.failed == []
    assert found.runs > 3


def test_a_row_makes_a_config_with_these_knobs() -> None:
    memory = config_of({"structure": "mlp", "strategy": "frozen"}).model.memory
    assert memory is not None
    assert memory.strategy.name == "frozen"
    assert rule_of(memory.rule).structure.linear is False  # type: ignore[attr-defined]


# Broken members of strangers, through a distribution of theirs.

RULE = """
import torch
from hecate_core.api import L2, ComposedRule, Matrix, Momentum, ScalarDecay, State

class Rule(ComposedRule):
    {body}

def odd():
    return Rule("odd", structure=Matrix(), bias=L2(), retention=ScalarDecay(), algorithm=Momentum())
"""
PLUGIN = """
from hecate_core.hooks import hookimpl

@hookimpl
def hecate_components():
    return [("rule", "odd", "acme_plugin.rules:odd")]
"""
BROKEN = {
    "wrong-shape": (
        "def step(self, params, state, token):\n"
        "        y, after = super().step(params, state, token)\n"
        "        return y.mT, after",
        "step-keeps-shapes-and-counts",
    ),
    "wrong-dtype": (
        "def step(self, params, state, token):\n"
        "        y, after = super().step(params, state, token)\n"
        "        return y.half(), after",
        "float32-stays-float32-and-near-float64",
    ),
    "in-place": (
        "def step(self, params, state, token):\n"
        "        y, after = super().step(params, state, token)\n"
        "        token.v.zero_()\n"
        "        return y, after",
        "step-changes-nothing-in-place",
    ),
    "torch-settings": (
        "def read(self, params, state, q):\n"
        "        torch.use_deterministic_algorithms(True)\n"
        "        return super().read(params, state, q)",
        "leaves-torch-settings-alone",
    ),
}


@pytest.fixture
def stranger(distribution: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def make(body: str) -> None:
        folder = distribution("acme", PLUGIN)
        (folder / "rules.py").write_text(RULE.format(body=body))
        monkeypatch.setattr(process, "_default", [Registry()])

    return make


@pytest.mark.parametrize("kind", BROKEN)
def test_a_stranger_s_broken_rule_is_told_in_one_line(
    kind: str, stranger: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    body, told_by = BROKEN[kind]
    stranger(body)
    assert run(["check", "--plugin", "acme"]) == 1
    lines = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith(f'rule "odd": {told_by}: failed: ')
    ]
    assert len(lines) == 1


def test_a_stranger_s_good_rule_passes(stranger: Callable[[str], None]) -> None:
    stranger("pass")
    found = check_plugin("acme")
    assert found.failed == []
    assert found.runs > 3


def test_an_unknown_plugin_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match='no plugin "hecate-liner"; did you mean "hecate-linear"'):
        check_plugin("hecate-liner")


# The command.


def test_the_command_prints_what_it_found_and_what_it_cannot_see(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check"]) == 0
    text = capsys.readouterr().out
    assert "checks: " in text
    assert " failed" not in text
    assert "not seen by a dry run:" in text
    assert "memory at the real size:" in text
    assert "  parameters: " in text


def test_the_command_gives_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--rule", "linear", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == "hecate.checks/1"
    assert {"checks", "cells", "impossible", "unstable", "estimates", "unseen"} <= set(content)
    assert content["checks"][0] == {
        "subject": 'rule "linear"',
        "name": "can-be-made",
        "outcome": "passed",
        "reason": "",
    }


def test_an_unknown_rule_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--rule", "dleta"]) == 2
    assert 'did you mean "delta"' in capsys.readouterr().err


def test_options_that_exclude_each_other_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--all", "--rule", "delta"]) == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def _same_registry() -> object:
    yield
    install()
    return None
