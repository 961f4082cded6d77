"""Finds rules: those in `hecate_lint/rules/` and those of other distributions by entry point.

A distribution adds rules with an entry point in the group `hecate.lint_rules` whose object is a `Rule` class or a
function that returns `Rule` classes. One that fails to load is one line and stops nothing else.
"""

import importlib
import os
import sys
from collections.abc import Iterable

from hecate_lint.model import GROUPS, SEVERITIES, LintError
from hecate_lint.rule import Rule
from hecate_lint.settings import nearest

ENTRY_POINTS = "hecate.lint_rules"

# The engine's own findings, which no rule file makes.
ENGINE = {
    "HL-01": ("suppression-without-reason", "A suppression must say why: `# hecate: allow CS-47 -- reason`."),
    "HL-02": ("unknown-suppression", "A suppression names a rule that does not exist."),
    "HL-03": ("unused-suppression", "A suppression that silences nothing should go."),
    "HL-04": ("malformed-suppression", "A comment that starts `hecate:` but is no suppression that works."),
    "HL-05": ("stale-baseline", "A baseline entry that matches nothing any more should go."),
    "HL-10": ("unreadable-file", "A file that cannot be read, decoded or parsed is not linted."),
    "HL-11": ("file-not-finished", "A file that broke the parser or ran out of time was not linted to the end."),
    "HL-12": ("rule-failed", "A rule raised on this file; the others went on."),
    "HL-13": ("broken-rule-plugin", "A distribution that offers rules does not load."),
}

_built_in: list[Rule] | None = None


def built_in() -> list[Rule]:
    """The rules of this distribution, by id."""
    global _built_in  # hecate: allow FL-06 -- a cache of what the folder holds; filled once, never changed
    if _built_in is None:
        folder = os.path.join(os.path.dirname(__file__), "rules")
        found: list[Rule] = []
        for entry in sorted(os.listdir(folder)):
            if entry.endswith(".py") and not entry.startswith("_"):
                module = importlib.import_module(f"hecate_lint.rules.{entry[:-3]}")
                found += _classes(vars(module).values(), module.__name__)
        _built_in = sorted(found, key=lambda rule: rule.id)
    return _built_in


def from_plugins() -> tuple[list[Rule], list[str]]:
    """Rules of other distributions, and one line for each that does not load."""
    found: list[Rule] = []
    broken: list[str] = []
    if not _others_offer():
        return found, broken
    from importlib.metadata import entry_points

    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda p: (p.name, p.value)):
        if point.value.startswith("hecate_lint."):
            continue
        try:
            offered = point.load()
            given = [offered] if isinstance(offered, type) else list(offered())
            rules = _classes(given, "")
            for rule in rules:
                _check(rule)
        except (Exception, SystemExit) as error:  # a stranger's code: isolate it, tell it, go on
            broken.append(f"rule plugin {point.name} ({point.value}): {type(error).__name__}: {str(error)[:150]}")
            continue
        found += rules
    return found, broken


def _others_offer() -> bool:
    """Whether the metadata of another distribution names the group; importlib.metadata costs ten times this look."""
    for folder in sys.path:
        try:
            entries = [entry.name for entry in os.scandir(folder or ".")]
        except OSError:
            continue
        for name in entries:
            if name.endswith((".dist-info", ".egg-info")) and not name.startswith("hecate_lint-"):
                try:
                    with open(os.path.join(folder, name, "entry_points.txt"), encoding="utf-8") as stream:
                        if ENTRY_POINTS in stream.read():
                            return True
                except (OSError, UnicodeDecodeError):
                    continue
    return False


def all_rules(plugins: bool = True) -> tuple[list[Rule], list[str]]:
    """Every rule that is installed and the lines about broken plugins; a taken id stays with its first owner."""
    own = built_in()
    if not plugins:
        return own, []
    others, broken = from_plugins()
    taken = {rule.id for rule in own} | {rule.name for rule in own}
    kept = []
    for rule in others:
        if rule.id in taken or rule.name in taken:
            broken.append(f"rule plugin {type(rule).__module__}: {rule.id} {rule.name} is taken; choose another id")
            continue
        taken |= {rule.id, rule.name}
        kept.append(rule)
    return [*own, *kept], broken


def find(rules: Iterable[Rule], word: str) -> list[Rule]:
    """The rules that a word of the configuration means: an id, a name, a group, a prefix (`CS`, `PT-1`) or `all`.

    A group or prefix means its rules that are on by default (all of them where none is); `all` means every rule.
    """
    listed = list(rules)
    upper = word.upper()
    exact = [rule for rule in listed if upper == rule.id or upper in rule.also or word == rule.name]
    if exact or word in ("all", "ALL"):
        return exact or listed
    is_prefix = upper[:2].isalpha()
    meant = [rule for rule in listed if rule.group == word or (is_prefix and rule.id.startswith(upper))]
    return [rule for rule in meant if rule.default] or meant


def chosen(rules: list[Rule], select: list[str], ignore: list[str], extend: list[str]) -> list[Rule]:
    """The rules to run; a word that means nothing is an error with the nearest one."""
    picked = {rule.id for rule in rules if rule.default} if not select else set()
    for word in [*select, *extend]:
        picked |= {rule.id for rule in known(rules, word)}
    for word in ignore:
        picked -= {rule.id for rule in known(rules, word)}
    return [rule for rule in rules if rule.id in picked]


def known(rules: list[Rule], word: str) -> list[Rule]:
    """As `find`, but raises `LintError` where a word means no rule."""
    found = find(rules, word)
    if not found and word not in GROUPS and word.upper() not in ENGINE:
        words = [rule.id for rule in rules] + [rule.name for rule in rules] + list(GROUPS)
        raise LintError(f'unknown rule "{word}"{nearest(word, words)}')
    return found


def _classes(values: Iterable[object], module: str) -> list[Rule]:
    return [
        value()
        for value in values
        if isinstance(value, type) and issubclass(value, Rule) and value.id and module in ("", value.__module__)
    ]


def _check(rule: Rule) -> None:
    if rule.severity not in SEVERITIES:
        raise LintError(f'{rule.id}: severity "{rule.severity}"; one of {", ".join(SEVERITIES)}')
    if rule.group not in GROUPS:
        raise LintError(f'{rule.id}: group "{rule.group}"; one of {", ".join(GROUPS)}')
    if not rule.id or not rule.name or not rule.__doc__:
        raise LintError(f"{rule.id or type(rule).__name__}: a rule needs id, name and a docstring")
