"""Precision on packages of strangers: the committed labels, read as a table (see strangers/README.md)."""

import csv
from collections import Counter
from pathlib import Path

from hecate_lint.registry import built_in

LABELS = Path(__file__).parent / "strangers" / "labels.csv"
PRECISION = 0.9


def rows() -> list[dict[str, str]]:
    with LABELS.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_labelled_core_rule_is_right_nine_times_in_ten() -> None:
    verdicts = Counter((row["rule"], row["verdict"]) for row in rows())
    assert {verdict for _, verdict in verdicts} <= {"true", "false"}
    for rule in sorted({row["rule"] for row in rows()}):
        right, wrong = verdicts[rule, "true"], verdicts[rule, "false"]
        assert right / (right + wrong) >= PRECISION, rule


def test_labels_name_core_rules_of_enough_packages() -> None:
    core = {rule.id for rule in built_in() if rule.group == "core"}
    assert {row["rule"] for row in rows()} <= core
    listed = (LABELS.parent / "packages.txt").read_text(encoding="utf-8").split()
    assert len(listed) >= 15
    assert {f"{row['package']}=={row['version']}" for row in rows()} <= set(listed)
