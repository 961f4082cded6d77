"""A wound in a rule's code is noticed by the rule's own examples."""

import ast
import inspect
import random
import sys
import types

import pytest

from hecate_lint.check import Checker
from hecate_lint.registry import built_in
from hecate_lint.rule import Rule, cases, marked

RULES = [rule for rule in built_in() if not rule.over_project]
PATH = "package/module.py"
DRAWN = 6  # mutants of each rule
NOTICED = 0.6  # of all mutants; the others are guards against code that no example writes

_SWAPS: dict[type, type] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Gt: ast.LtE,
    ast.Lt: ast.GtE,
}


class Wound(ast.NodeTransformer):
    """Changes the n-th place that can be changed inside functions; `count` says how many there are."""

    def __init__(self, wanted: int):
        self.wanted, self.count = wanted, 0

    def hit(self) -> bool:
        self.count += 1
        return self.count - 1 == self.wanted

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if type(node.ops[0]) in _SWAPS and self.hit():
            node.ops[0] = _SWAPS[type(node.ops[0])]()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        if self.hit():
            node.op = _SWAPS[type(node.op)]()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return node.operand if isinstance(node.op, ast.Not) and self.hit() else node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, bool) and self.hit():
            node.value = ast.Constant(not node.value.value)
        return node


def mutant(rule: Rule, wanted: int) -> tuple[Rule | None, int]:
    """The rule with its n-th changeable place changed, and the number of such places."""
    module = sys.modules[type(rule).__module__]
    tree = ast.parse(inspect.getsource(module))
    wound = Wound(wanted)
    tree = ast.fix_missing_locations(wound.visit(tree))
    if wound.count <= wanted:
        return None, wound.count
    made = types.ModuleType(f"{module.__name__}_mutant")
    exec(compile(tree, module.__file__ or "", "exec"), made.__dict__)
    found: Rule = getattr(made, type(rule).__name__)()
    return found, wound.count


def is_noticed(rule: Rule) -> bool:
    checker = Checker([rule], built_in())
    for bad, block in ((True, rule.INVALID), (False, rule.VALID)):
        for case in cases(block):
            result = checker.check(PATH, case.encode())
            found = [finding.line for finding in result.findings if finding.rule == rule.id]
            if result.failed or found != (marked(case) if bad else []):
                return True
    return False


@pytest.fixture(scope="module")
def verdicts() -> dict[str, list[bool]]:
    draw = random.Random(5)
    found: dict[str, list[bool]] = {}
    for rule in RULES:
        _, count = mutant(rule, 1 << 30)
        for wanted in sorted(draw.sample(range(count), min(DRAWN, count))):
            changed, _ = mutant(rule, wanted)
            assert changed is not None
            found.setdefault(rule.id, []).append(is_noticed(changed))
    return found


def test_most_mutants_of_rules_are_noticed_by_their_examples(verdicts: dict[str, list[bool]]) -> None:
    every = [one for row in verdicts.values() for one in row]
    assert sum(every) / len(every) >= NOTICED


def test_no_rule_lets_all_its_mutants_pass(verdicts: dict[str, list[bool]]) -> None:
    assert [rule for rule, row in verdicts.items() if not any(row)] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_rule_that_says_nothing_is_noticed(rule: Rule) -> None:
    silent = type("Silent", (type(rule),), {"nominate": lambda self, file: iter(())})
    assert is_noticed(silent())
