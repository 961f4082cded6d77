"""Fixes: idempotent, re-parse, add no finding, touch no other byte, in every kind of text file."""

import ast
import codecs
from collections import Counter
from collections.abc import Callable

import pytest

from hecate_lint.check import Checker
from hecate_lint.model import Finding
from hecate_lint.registry import built_in
from hecate_lint.rule import Rule, cases
from hecate_lint.session import PASSES, mend

RULES = built_in()
CHECKER = Checker([rule for rule in RULES if rule.default], RULES)
PATH = "package/module.py"
FIXING = [rule for rule in RULES if rule.fix_kind != "none"]
EXAMPLES = [
    pytest.param(rule, case, id=f"{rule.id}-{n}") for rule in FIXING for n, case in enumerate(cases(rule.INVALID), 1)
]


def as_is(text: str) -> bytes:
    return text.encode()


def windows(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def old_mac(text: str) -> bytes:
    return text.replace("\n", "\r").encode()


def with_bom(text: str) -> bytes:
    return codecs.BOM_UTF8 + text.encode()


def with_tabs(text: str) -> bytes:
    return text.replace("    ", "\t").encode()


def with_form_feed(text: str) -> bytes:
    return ("x = 1\n\x0c\n" + text).encode()


def without_final_newline(text: str) -> bytes:
    return text.rstrip("\n").encode()


def in_latin_1(text: str) -> bytes:
    return ("# coding: latin-1\nname = 'caf\xe9'\n" + text).encode("latin-1")


def after_wide_text(text: str) -> bytes:
    return ("name = '\U0001f600\u00e9'; other = 1\n" + text).encode()


SHAPES: list[Callable[[str], bytes]] = [
    *(as_is, windows, old_mac, with_bom, with_tabs, with_form_feed),
    *(without_final_newline, in_latin_1, after_wide_text),
]


def findings(data: bytes, rules: list[Rule] | None = None) -> list[Finding]:
    checker = CHECKER if rules is None else Checker(rules, RULES)
    result = checker.check(PATH, data)
    assert not result.failed, result.failed
    return result.findings


def fixed(data: bytes, rule: Rule) -> bytes:
    for _ in range(PASSES):
        found = [one for one in findings(data, [rule]) if one.edits]
        if not found:
            return data
        after = mend(PATH, data, found)
        assert after is not None
        assert after != data
        data = after
    raise AssertionError("the fix does not come to rest")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize(("rule", "case"), EXAMPLES)
def test_fix_parses_rests_and_adds_no_finding(rule: Rule, case: str, shape: Callable[[str], bytes]) -> None:
    data = shape(case)
    before = findings(data)
    after = fixed(data, rule)
    ast.parse(after)
    assert fixed(after, rule) == after
    gained = Counter(one.rule for one in findings(after)) - Counter(one.rule for one in before)
    assert not gained, after


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize(("rule", "case"), EXAMPLES)
def test_fix_leaves_bytes_outside_its_edits_alone(rule: Rule, case: str, shape: Callable[[str], bytes]) -> None:
    data = shape(case)
    found = [one for one in findings(data, [rule]) if one.edits]
    lines = {number for one in found for number in range(one.line, one.end_line + 1)}
    after = mend(PATH, data, found)
    if not found:
        return
    assert after is not None
    old, new = data.splitlines(keepends=True), after.splitlines(keepends=True)
    if len(old) == len(new):
        assert [a for n, a in enumerate(old, 1) if n not in lines] == [
            b for n, b in enumerate(new, 1) if n not in lines
        ]
    ends = Counter(line[len(line.rstrip(b"\r\n")) :] for line in new)
    assert set(ends) <= {line[len(line.rstrip(b"\r\n")) :] for line in old}


def test_every_rule_that_says_it_fixes_does() -> None:
    for rule in FIXING:
        fixable = [case for case in cases(rule.INVALID) if any(one.edits for one in findings(case.encode(), [rule]))]
        assert fixable, rule.id
