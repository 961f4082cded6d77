"""The core rules confirm each finding on the libcst tree: what is nominated, and nothing that stands elsewhere."""

import ast

import libcst as cst
import pytest
from libcst import matchers

from hecate_lint.facts import File
from hecate_lint.model import Hit
from hecate_lint.registry import built_in
from hecate_lint.rule import Rule, cases
from hecate_lint.source import Source
from hecate_lint.tree import Tree

RULES = [rule for rule in built_in() if rule.id in ("CS-39", "CS-40", "CS-42", "CS-47", "CS-48")]
OTHERS = "other(1)\nname\nself.attribute\nx = 1\nx += 1\nx: int = 1\nf(word=True)\ndef other(): pass\n"


def hits(rule: Rule) -> list[tuple[File, Hit]]:
    found = []
    for case in cases(rule.INVALID):
        source = Source("package/module.py", case.encode())
        file = File(source, source.parse())
        found += [(file, hit) for hit in rule.nominate(file) if hit.confidence != "possible"]
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_matcher_takes_the_nominated_node_and_no_other(rule: Rule) -> None:
    found = hits(rule)
    assert len(found) >= 5
    others = [node for node in matchers.findall(cst.parse_module(OTHERS), matchers.MatchIfTrue(lambda node: True))]
    for file, hit in found:
        spot = Tree(file.source).find(hit.node)
        assert spot is not None
        pattern = rule.pattern(matchers, hit)
        assert matchers.matches(spot.node, pattern)
        taken = [node for node in others if matchers.matches(node, pattern)]
        plain = isinstance(hit.node, ast.AugAssign) and isinstance(hit.node.target, (ast.Name, ast.Attribute))
        assert len(taken) <= plain, "an augmented assignment to a name is like any other"
