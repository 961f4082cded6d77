"""The table of rules: derived from what is registered, and what docs/rules.md says."""

import json
from pathlib import Path

import pytest

from hecate_core.checking.catalogue import catalogue, markdown
from hecate_core.cli.main import run
from hecate_core.registry import registry

from .conftest import FakeDistribution
from .specs import ROOT, SPECIFIED, read

PAGE = Path(__file__).parents[1] / "docs" / "rules.md"
EVIDENCE = Path(__file__).parents[1] / "benchmarks" / "evidence"


def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "table", "--evidence", str(EVIDENCE)]) == 0
    table = capsys.readouterr().out
    words = "run: hecate plugins table --evidence benchmarks/evidence, and put it there"
    assert PAGE.read_text(encoding="utf-8").endswith("\n\n" + table), words


def test_evidence_of_a_rule_is_where_its_memory_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row.name: row for row in catalogue(EVIDENCE)}
    assert {"passkey", "rules-exact"} <= set(rows["titans"].evidence)
    assert "passkey" not in rows["kda"].evidence
    assert run(["plugins", "table", "--evidence", str(tmp_path)]) == 2
    assert "holds no packed runs" in capsys.readouterr().err
    (tmp_path / "broken.json").write_text("{")
    assert run(["plugins", "table", "--evidence", str(tmp_path)]) == 4
    assert run(["plugins", "--evidence", str(EVIDENCE)]) == 2
    assert "goes with table" in capsys.readouterr().err


def test_rows_agree_with_the_contracts_of_the_specifications() -> None:
    """Two derivations of one table: from the objects, and from what their specifications promise."""
    assert "rule" in SPECIFIED
    rows = catalogue()
    assert [row.name for row in rows] == registry().names("rule")
    for row in rows:
        spec = read(ROOT / row.spec)
        assert spec is not None
        contract = spec.contract
        assert row.distribution == contract["distribution"]
        for strategy, verdict in contract["strategies"].items():
            assert row.strategies[strategy] == verdict, row.name
        if row.knobs:
            assert list(row.knobs) == list(contract["knobs"])
            assert row.knobs == {knob: name.split("(")[0] for knob, name in contract["knobs"].items()}, row.name
        if contract["pair"] != "none":
            assert contract["pair"] in row.ops


def test_json_has_the_same_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "table", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "hecate.rules/1"
    assert [row["name"] for row in found["rules"]] == registry().names("rule")
    titans = next(row for row in found["rules"] if row["name"] == "titans")
    assert titans["state_bytes"] == 2 * 64 * 64 * 4  # a memory and its momentum


def test_a_table_is_markdown() -> None:
    lines = markdown(catalogue()[:2])
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {10}


BROKEN = """
from hecate_core.hooks import hookimpl

@hookimpl
def hecate_components():
    return [("rule", "absent", "acme_plugin.gone:Rule"), ("rule", "angry", "acme_plugin.angry:Rule"),
            ("strategy", "lost", "acme_plugin.gone:Strategy"), ("retention", "lost", "acme_plugin.gone:Retention")]
"""


def test_a_broken_member_is_a_row_of_its_own_and_stops_no_other(
    distribution: FakeDistribution, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = catalogue()
    folder = distribution("acme", BROKEN)
    (folder / "angry.py").write_text("def Rule(width=3):\n    raise ValueError('in a\\nmood')\n")
    monkeypatch.setattr("hecate_core.registry.lookup._default", [])
    assert run(["plugins", "table"]) == 0
    shown = capsys.readouterr()
    table = shown.out.splitlines()
    assert [line for line in table if "| acme |" not in line] == markdown(sound)
    assert any(line.startswith("| absent | acme | broken: ") and "gone" in line for line in table)
    assert any(line.startswith("| angry | acme | broken: ") and "in a mood" in line for line in table)
    assert {line.count("|") for line in table} == {10}
    assert 'strategy "lost" failed to import acme_plugin.gone' in shown.err
    assert 'retention "lost" failed to import acme_plugin.gone' in shown.err
    assert run(["plugins", "table", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rules"]}
    assert rows["titans"]["broken"] == ""
    assert "in a mood" in rows["angry"]["broken"]
