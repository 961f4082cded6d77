"""Precision on packages of strangers: the committed labels, read as a table (see strangers/README.md)."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from hecate_lint.check import Checker
from hecate_lint.registry import built_in

from .planted import PLANTED, Plant

HERE = Path(__file__).parent / "strangers"
PRECISION = 0.9
READINGS = ["tuned", "first", "second", "third", "fourth", "fifth"]
Row = dict[str, str]


def rows() -> list[Row]:
    with (HERE / "labels.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def packages() -> dict[str, str]:
    """Package and version -> the reading that it belongs to."""
    lines = (HERE / "packages.txt").read_text(encoding="utf-8").splitlines()
    return {line.split()[0]: line.split()[1] for line in lines}


def precision(some: list[Row]) -> float:
    verdicts = Counter(row["verdict"] for row in some)
    assert set(verdicts) <= {"true", "false"}
    return verdicts["true"] / verdicts.total()


def labelled() -> list[str]:
    return sorted({row["rule"] for row in rows()})


@pytest.mark.parametrize("rule", labelled())
def test_what_the_rules_report_now_is_right_nine_times_in_ten(rule: str) -> None:
    now = [row for row in rows() if row["rule"] == rule and row["reported_now"] != "no"]
    assert not now or precision(now) >= PRECISION
    unseen = [row for row in now if row["reading"] != "tuned"]
    assert not unseen or precision(unseen) >= PRECISION


@pytest.mark.parametrize("rule", labelled())
def test_the_last_reading_of_unseen_packages_is_right_nine_times_in_ten(rule: str) -> None:
    mine = [row for row in rows() if row["rule"] == rule]
    last = [row for row in mine if row["reading"] == READINGS[-1]]
    if not last:  # the rule found nothing in the packages of the last reading: nothing wrong either
        last = [row for row in mine if row["reading"] == "fourth" and row["reported_now"] == "yes"]
    assert not last or precision(last) >= PRECISION


def test_labels_name_core_rules_of_enough_packages() -> None:
    core = {rule.id for rule in built_in() if rule.group == "core"}
    assert set(labelled()) <= core
    listed = packages()
    assert Counter(listed.values()) == {name: Counter(listed.values())[name] for name in READINGS}
    assert sum(reading != "tuned" for reading in listed.values()) >= 15
    for row in rows():
        assert listed[f"{row['package']}=={row['version']}"] == row["reading"]


def test_core_rules_without_a_right_finding_in_the_wild_have_a_planted_one() -> None:
    core = {rule.id for rule in built_in() if rule.group == "core" and rule.default}
    seen = {row["rule"] for row in rows() if row["verdict"] == "true"}
    assert core - seen <= {plant.rule for plant in PLANTED} | {"CS-16", "CS-18"}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.rule)
def test_planted_mistake_is_found_and_the_sound_module_is_clean(plant: Plant) -> None:
    every = built_in()
    core = [rule for rule in every if rule.group == "core"]
    assert plant.sound.count(plant.old) == 1
    sound = Checker(core, every).check("package/module.py", plant.sound.encode())
    assert sound.findings == []
    found = Checker(core, every).check("package/module.py", plant.sound.replace(plant.old, plant.new).encode())
    assert [(finding.rule, finding.line) for finding in found.findings] == [(plant.rule, plant.line)]


def table() -> str:
    """Right of read, by rule and reading, as the README shows it."""
    lines = ["| rule | " + " | ".join(READINGS) + " | now, unseen |", "|---|" + "--:|" * (len(READINGS) + 1)]
    for rule in labelled():
        mine = [row for row in rows() if row["rule"] == rule]
        cells = [[row for row in mine if row["reading"] == reading] for reading in READINGS]
        cells.append([row for row in mine if row["reported_now"] == "yes" and row["reading"] != "tuned"])
        shown = [f"{sum(row['verdict'] == 'true' for row in some)}/{len(some)}" if some else "" for some in cells]
        lines.append(f"| {rule} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def test_readme_shows_the_labels_as_a_table() -> None:
    assert table() in (HERE / "README.md").read_text(encoding="utf-8"), table()


@pytest.mark.parametrize("place", ["lint/tests/strangers/README.md", "docs/lint.md"])
def test_pages_say_how_many_packages_were_linted(place: str) -> None:
    text = (Path(__file__).parents[2] / place).read_text(encoding="utf-8")
    assert set(re.findall(r"(\d+) packages (?:that use torch|of strangers)", text)) == {str(len(packages()))}
