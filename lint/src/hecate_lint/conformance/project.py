"""One package seen as a whole: registrations, specs, kernel sources; and the findings of rules that judge it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from hecate_lint import discover, suppress
from hecate_lint.check import Checker, allow_lines, engine_finding
from hecate_lint.conformance import registered, spec
from hecate_lint.conformance.registered import Registration
from hecate_lint.facts import File
from hecate_lint.model import Confidence, Finding, Hit, Severity
from hecate_lint.rule import Rule
from hecate_lint.settings import Settings


@dataclass(frozen=True)
class Remark:
    """Something wrong at a line of a file that is no Python (a spec, a document)."""

    path: str
    line: int
    message: str
    confidence: str = "certain"
    severity: str | None = None


class Judge(Protocol):
    """A rule that looks at a whole project."""

    def judge(self, project: "Project") -> Iterator[tuple[File, Hit] | Remark]:
        """Places where code, specs and kernels disagree."""
        ...


@dataclass
class Project:
    """What the rules over a package may ask."""

    root: str
    settings: Settings
    files: Sequence[str]
    registrations: list[Registration] = field(default_factory=list)
    specs: list[spec.Spec] = field(default_factory=list)
    roots: list[str] = field(default_factory=list)

    def find_spec(self, kind: str, name: str) -> spec.Spec | None:
        """The spec whose contract has this kind and name."""
        return next((one for one in self.specs if one.kind == kind and one.name == name), None)

    def component(self, one: Registration) -> Any:
        """(file, class or function) of a registration, None when its source is not here."""
        return registered.component(one.module, one.attribute, self.roots)

    def names(self, kind: str) -> set[str]:
        """Names registered for a kind."""
        return {one.name for one in self.registrations if one.kind == kind}

    def owner(self, kind: str, attribute: str) -> str:
        """The name under which a class is registered; empty when it is not."""
        return next((one.name for one in self.registrations if one.kind == kind and one.attribute == attribute), "")

    def load(self, path: str) -> File | None:
        """A parsed file of the project."""
        return registered.load(path)


def gather(files: Sequence[str], settings: Settings) -> Project:
    """The project around these files: plugin modules among them, and the specs that belong to them."""
    project = Project(settings.root, settings, files)
    registered.load.cache_clear()
    plugins = [path for path in files if _mentions(path, registered.HOOK.encode())]
    for path in plugins:
        file = registered.load(path)
        if file is not None:
            project.registrations += registered.registrations(file)
    project.roots = sorted({registered.source_root(one.file.path) for one in project.registrations})
    folders = [os.path.join(settings.root, name) for name in settings.specs]
    packages = {one.module.split(".")[0] for one in project.registrations}
    folders += [os.path.join(root, package, "specs") for root in project.roots for package in packages]
    project.specs = spec.below(sorted(folder for folder in set(folders) if os.path.isdir(folder)))
    return project


def judge(judges: Sequence[Rule], files: Sequence[str], settings: Settings, ids: dict[str, str]) -> list[Finding]:
    """The findings of these rules over the project, suppressions respected."""
    project = gather(files, settings)
    found: list[Finding] = []
    for rule in judges:
        for said in cast(Judge, rule).judge(project):
            if isinstance(said, Remark):
                found.append(_remark(rule, said))
            else:
                finding = _placed(rule, *said)
                if finding is not None and not _is_allowed(ids, said, finding) and not _is_excused(settings, finding):
                    found.append(finding)
    unique = {(f.rule, f.path, f.line, f.message): f for f in found}
    return list(unique.values())


def _placed(rule: Rule, file: File, hit: Hit) -> Finding | None:
    """The finding at a Python node, positioned by libcst."""
    from libcst import matchers

    from hecate_lint.tree import Tree

    spot = Tree(file.source).find(hit.node)
    if spot is None or not matchers.matches(spot.node, rule.pattern(matchers, hit)):
        return None
    finding = Checker([], []).finding(file, rule, hit, spot)
    return _renamed(finding)


def _renamed(finding: Finding) -> Finding:
    from dataclasses import replace

    return replace(finding, path=discover.shown(finding.path))


def _is_allowed(ids: dict[str, str], said: tuple[File, Hit], finding: Finding) -> bool:
    file, hit = said
    allows, _ = suppress.read(file.source.text, ids)
    return suppress.silences(allows, finding.rule, allow_lines(hit.node, finding))


def _is_excused(settings: Settings, finding: Finding) -> bool:
    relative = discover.rooted(os.path.abspath(finding.path), settings.root)
    return any(item.covers(relative) and {finding.rule, finding.name} & set(item.ignore) for item in settings.per_path)


def _remark(rule: Rule, said: Remark) -> Finding:
    base = engine_finding("HL-10", discover.shown(said.path), said.line, said.message)
    from dataclasses import replace

    return replace(
        base,
        rule=rule.id,
        name=rule.name,
        severity=cast(Severity, said.severity or rule.severity),
        confidence=cast(Confidence, said.confidence),
        why=rule.why,
        mend=rule.mend,
    )


def _mentions(path: str, word: bytes) -> bool:
    try:
        with open(path, "rb") as stream:
            return word in stream.read()
    except OSError:
        return False
