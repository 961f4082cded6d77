"""Which smell is enforced by what, and whether every rule is complete: `hecate-lint --self-check`."""

import sys

from hecate_lint.conformance.smells import ENFORCED, REVIEW, SMELLS
from hecate_lint.model import GROUPS, SEVERITIES
from hecate_lint.registry import all_rules
from hecate_lint.rule import Rule, cases

WANTED = 5  # cases of each kind


def owners(rules: list[Rule]) -> dict[str, Rule]:
    """The rule of each smell that has one."""
    return {smell: rule for rule in rules for smell in (rule.id, *rule.also)}


def table(rules: list[Rule]) -> str:
    """The coverage table as Markdown."""
    by_smell = owners(rules)
    lines = [
        "# What enforces each smell",
        "",
        "Generated; do not edit.",
        "",
        "| smell | what | rule | otherwise |",
        "|---|---|---|---|",
    ]
    for smell, title in SMELLS.items():
        rule = by_smell.get(smell)
        shown = f"[{rule.id}](lint-rules/{rule.id}.md) {rule.name}" if rule is not None else "-"
        lines.append(f"| {smell} | {title} | {shown} | {ENFORCED.get(smell, '')} |")
    lines += ["", "Left to review: " + "; ".join(REVIEW) + "."]
    return "\n".join(lines) + "\n"


def problems(rules: list[Rule]) -> list[str]:
    """One line for each smell that nothing enforces and each rule that is not finished."""
    by_smell = owners(rules)
    lines = [
        f"{smell}: no rule, no runtime check, no review item"
        for smell in SMELLS
        if smell not in by_smell and smell not in ENFORCED
    ]
    for rule in rules:
        lines += [f"{rule.id}: {lack}" for lack in _lacks(rule)]
    return lines


def _lacks(rule: Rule) -> list[str]:
    lacks = []
    for part in ("SMELL.", "WHY.", "FIX.", "TRACE."):
        if part not in (rule.__doc__ or ""):
            lacks.append(f"its page has no {part}")
    if rule.severity not in SEVERITIES or rule.group not in GROUPS:
        lacks.append("severity or group is unknown")
    if not rule.why or not rule.mend:
        lacks.append("it does not say why, or what mends")
    for name, block in (("VALID", rule.VALID), ("INVALID", rule.INVALID)):
        if len(cases(block)) < WANTED and not rule.over_project:
            lacks.append(f"{len(cases(block))} {name} examples; at least {WANTED}")
    return lacks


def self_check() -> int:
    """Print what is missing; exit status 0 when nothing is, 1 otherwise."""
    rules, broken = all_rules()
    lines = [*broken, *problems(rules)]
    for line in lines:
        print(line)
    print(f"{len(rules)} rules, {len(SMELLS)} smells, {len(lines)} problems", file=sys.stderr)
    return 1 if lines else 0
