"""docs/stability.md says what the measured file says, and the file speaks of every rule there is."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from hecate_core.composing import rule_of, strategy_of
from hecate_core.registry import registry
from hecate_core.strategy_gates import gates_under

from .gate_streams import strategies

ROOT = Path(__file__).parent.parent


def test_the_page_is_made_of_the_measurements() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "stability.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_rule_is_measured_and_its_declared_range_is_the_present_one() -> None:
    found = {one["rule"]: one for one in json.loads((ROOT / "benchmarks/results/stability.json").read_text())}
    assert sorted(found) == registry().names("rule"), "run benchmarks/stability.py NAME"
    for name, one in found.items():
        rule, given = rule_of(name), one["strategies"]
        for strategy, chunk in strategies(rule):
            label = strategy if isinstance(strategy, str) else strategy["name"]
            label = f"{label} {chunk}" if label in ("frozen", "tnt") else label
            held = gates_under(rule, strategy_of(strategy, rule, chunk=chunk))
            declared = {gate: [limits.low, limits.high] for gate, limits in held.items()}
            assert given.pop(label)["declared"] == declared, f"run benchmarks/stability.py {name}"
        assert not given, "strategies that do not serve the rule"


def test_the_page_names_its_file_by_its_content() -> None:
    values = json.loads((ROOT / "benchmarks/results/stability.json").read_text())
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    assert f"content id `{digest[:12]}`" in (ROOT / "docs" / "stability.md").read_text()
