"""Every rule against its own examples: one by one, with renamed imports, and with all rules at once."""

import ast
import io
import keyword
import tokenize

import pytest

from hecate_lint.check import Checker
from hecate_lint.model import Finding
from hecate_lint.registry import built_in
from hecate_lint.rule import Rule, cases, marked

RULES = built_in()
PATH = "package/module.py"
EXAMPLES = [
    pytest.param(rule, case, number, bad, id=f"{rule.id}-{'invalid' if bad else 'valid'}-{number}")
    for rule in RULES
    for bad, block in ((True, rule.INVALID), (False, rule.VALID))
    for number, case in enumerate(cases(block), 1)
]
PREAMBLE = {
    "torch": "import torch",
    "nn": "import torch.nn as nn",
    "F": "import torch.nn.functional as F",
    "dist": "import torch.distributed as dist",
}


def lint(source: str, rules: list[Rule], path: str = PATH) -> list[Finding]:
    result = Checker(rules, RULES).check(path, source.encode())
    assert not result.failed, result.failed
    return result.findings


def names_in(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def renamed(source: str) -> tuple[str, int]:
    """The same program under other names for what it imports, and how many lines were put before it."""
    tree = ast.parse(source)
    aliases = [node for node in ast.walk(tree) if isinstance(node, ast.alias)]
    bound = {alias.asname or alias.name.split(".")[0] for alias in aliases}
    wanted = [name for name in PREAMBLE if name in names_in(source) and name not in bound]
    head = "".join(PREAMBLE[name] + "\n" for name in wanted)
    whole = head + source
    imports = [n for n in ast.walk(ast.parse(whole)) if isinstance(n, (ast.Import, ast.ImportFrom))]
    change: dict[str, str] = {}
    lines: dict[int, str] = {}
    for node in imports:
        if getattr(node, "level", 0) or node.end_lineno != node.lineno or any(a.name == "*" for a in node.names):
            continue
        said = []
        for alias in node.names:
            plain = isinstance(node, ast.Import) and "." in alias.name and not alias.asname
            if plain or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
                said.append(alias.name)
                continue
            local = alias.asname or alias.name
            change[local] = f"{local}_qz"
            said.append(f"{alias.name} as {local}_qz")
        start = f"from {'.' * node.level}{node.module or ''} import " if isinstance(node, ast.ImportFrom) else "import "
        lines[node.lineno] = start + ", ".join(said)
    return _with_names(whole, change, lines), len(wanted)


def _with_names(source: str, change: dict[str, str], lines: dict[int, str]) -> str:
    text = source.splitlines()
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for before, token, after in reversed(
        list(zip([tokens[0], *tokens], tokens, [*tokens[1:], tokens[-1]], strict=False))
    ):
        row, column = token.start
        if token.type == tokenize.NAME and token.string in change and row not in lines:
            is_keyword_argument = after.string == "=" and before.string in ("(", ",")
            if before.string != "." and not is_keyword_argument and not keyword.iskeyword(token.string):
                line = text[row - 1]
                text[row - 1] = line[:column] + change[token.string] + line[column + len(token.string) :]
    for row, line in lines.items():
        indent = text[row - 1][: len(text[row - 1]) - len(text[row - 1].lstrip())]
        text[row - 1] = indent + line
    return "\n".join(text) + "\n"


@pytest.mark.parametrize(("rule", "case", "number", "bad"), EXAMPLES)
def test_example_is_judged_at_its_marked_lines(rule: Rule, case: str, number: int, bad: bool) -> None:
    found = [finding.line for finding in lint(case, [rule]) if finding.rule == rule.id]
    assert found == (marked(case) if bad else [])
    assert bool(found) == bad


@pytest.mark.parametrize(("rule", "case", "number", "bad"), EXAMPLES)
def test_example_is_judged_the_same_under_other_import_names(rule: Rule, case: str, number: int, bad: bool) -> None:
    if rule.group in ("strict-ontology",):
        pytest.skip("a rule about spelling follows the spelling")
    source, before = renamed(case)
    found = [finding.line - before for finding in lint(source, [rule]) if finding.rule == rule.id]
    assert found == (marked(case) if bad else []), source


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_rule_is_complete(rule: Rule) -> None:
    valid, invalid = cases(rule.VALID), cases(rule.INVALID)
    assert rule.over_project or len(valid) >= 5
    assert rule.over_project or len(invalid) >= 5
    assert all(marked(case) for case in invalid)
    assert not any(marked(case) for case in valid)
    for part in ("SMELL.", "WHY.", "FIX.", "TRACE."):
        assert part in (rule.__doc__ or ""), part
    assert rule.why
    assert rule.mend


def test_all_rules_together_judge_every_example_the_same() -> None:
    checker = Checker(RULES, RULES)
    for rule in RULES:
        for bad, block in ((True, rule.INVALID), (False, rule.VALID)):
            for case in cases(block):
                result = checker.check(PATH, case.encode())
                assert not result.failed, result.failed
                found = [finding.line for finding in result.findings if finding.rule == rule.id]
                assert found == (marked(case) if bad else []), case
