"""One run of the linter: files through cache and workers to a sorted report, and fixes back to the files."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hecate_lint import cache, discover, registry, workers
from hecate_lint.check import Checked, Checker, engine_finding
from hecate_lint.model import Finding, LintError
from hecate_lint.rule import Rule
from hecate_lint.settings import Settings
from hecate_lint.source import Source, UnreadableError, apply_edits

PASSES = 8  # fixes may make room for further fixes; more rounds than this are a fault


@dataclass
class Report:
    """What a run found, in report order."""

    findings: list[Finding] = field(default_factory=list)
    suppressed: list[tuple[str, str, int, str]] = field(default_factory=list)  # path, rule, line, reason
    files: int = 0
    cached: int = 0
    failed: str = ""  # a traceback of ours
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)  # path -> text before and after fixes


@dataclass
class Options:
    """What the command line says beside the paths."""

    jobs: int = 0
    use_cache: bool = True
    fix: bool = False
    unsafe: bool = False
    write: bool = True
    stdin: tuple[str, bytes] | None = None


class Session:
    """Holds rules and settings of one run; `lint` may be called again after fixes."""

    def __init__(self, settings: Settings, options: Options):
        self.settings = settings
        self.options = options
        if settings.bibliography and settings.listed is None:
            raise LintError(f'tool.hecate.lint: bibliography = "{settings.bibliography}": no such file')
        self.every, self.broken = registry.all_rules()
        select, ignore = list(settings.select), list(settings.ignore)
        self.rules = registry.chosen(self.every, select, ignore, list(settings.extend_select))
        for item in settings.per_path:
            for word in item.ignore:
                registry.known(self.every, word)
        for word in settings.severity:
            registry.known(self.every, word)
        self.checker = Checker(self.rules, self.every, settings.confidence, settings)
        self._contents: dict[str, bytes] = {}
        self._real: dict[str, str] = {}  # path as shown -> path to open

    def lint(self, paths: Sequence[str]) -> Report:
        """Lint files and folders (or the one buffer of the options)."""
        if self.options.stdin is not None:
            name, data = self.options.stdin
            found = discover.Discovered([name])
            self._contents[name] = data
        else:
            found = discover.discover(paths, self.settings)
        report = Report(files=len(found.files))
        for path, reason in found.refused:
            report.findings.append(engine_finding("HL-10", discover.shown(path), 1, reason))
        for line in self.broken:
            report.findings.append(engine_finding("HL-13", "pyproject.toml", 1, line))
        self._files(found.files, report)
        if self.options.fix or self.options.unsafe:
            self._mend(report)
        report.findings += self._project(found.files)
        report.findings = sorted(map(self._graded, report.findings), key=lambda finding: finding.order)
        return report

    def _project(self, files: Sequence[str]) -> list[Finding]:
        judges = [rule for rule in self.rules if hasattr(rule, "judge")]
        if not judges or self.options.stdin is not None:
            return []
        from hecate_lint.conformance.project import judge

        return judge(judges, files, self.settings, self.checker.ids)

    def _files(self, files: Iterable[str], report: Report) -> None:
        """Results of files, from the cache where the bytes are known, else from workers."""
        store = cache.Cache(self.settings.root, self._fingerprint(), self.options.use_cache)
        wait: dict[str, str] = {}
        for path in files:
            self._real[discover.shown(path)] = path
            try:
                data = self._read(path)
            except OSError as error:
                report.findings.append(
                    engine_finding("HL-10", discover.shown(path), 1, f"cannot be read: {error.strerror}")
                )
                continue
            key = cache.key(discover.shown(path), data)
            kept = store.get(key)
            if kept is None:
                wait[path] = key
            else:
                report.cached += 1
                self._take(report, path, kept)
        jobs = min(self.options.jobs or os.cpu_count() or 1, max(1, len(wait) // 4))
        for path, result in workers.run(wait, self._work, jobs, self.settings.time_limit_s).items():
            if isinstance(result, workers.BrokenError):
                report.findings.append(engine_finding("HL-11", discover.shown(path), 1, str(result)))
            else:
                self._take(report, path, result)
                if not result["failed"]:
                    store.put(wait[path], result)
        store.save()

    def _work(self, path: str) -> dict[str, Any]:
        """Runs in a worker: lint one file, in plain values."""
        relative = discover.rooted(path, self.settings.root)
        skip: set[str] = set()
        for setting in self.settings.per_path:
            if setting.covers(relative):
                skip |= {rule.id for word in setting.ignore for rule in registry.find(self.every, word)}
        checked: Checked = self.checker.check(discover.shown(path), self._read(path), frozenset(skip))
        return {
            "findings": [finding.pack() for finding in checked.findings],
            "suppressed": [list(item) for item in checked.suppressed],
            "failed": checked.failed,
        }

    def _take(self, report: Report, path: str, result: dict[str, Any]) -> None:
        report.findings += [Finding.unpack(plain) for plain in result["findings"]]
        report.suppressed += [(discover.shown(path), *item) for item in result["suppressed"]]
        report.failed = report.failed or result["failed"]

    def _mend(self, report: Report) -> None:
        """Apply fixes until none is left; a file whose fix does not parse keeps its text."""
        kinds = {"safe", "unsafe"} if self.options.unsafe else {"safe"}
        before: dict[str, bytes] = {}
        for _ in range(PASSES):
            touched = []
            by_path: dict[str, list[Finding]] = {}
            for finding in report.findings:
                if finding.edits and finding.fix in kinds:
                    by_path.setdefault(finding.path, []).append(finding)
            for name, findings in by_path.items():
                path = self._real[name]
                data = self._read(path)
                mended = mend(path, data, findings)
                if mended is not None and mended != data:
                    before.setdefault(path, data)
                    self._contents[path] = mended
                    touched.append(path)
            if not touched:
                break
            import hecate_lint.tree  # noqa: F401  # before the fork: the workers of the next round share it

            kept = {discover.shown(path) for path in touched}
            report.findings = [finding for finding in report.findings if finding.path not in kept]
            report.suppressed = [item for item in report.suppressed if item[0] not in kept]
            self._files(touched, report)
        for path, data in before.items():
            report.changed[discover.shown(path)] = (Source(path, data).text, Source(path, self._contents[path]).text)
            if self.options.write and self.options.stdin is None:
                _replace(path, self._contents[path])

    def _read(self, path: str) -> bytes:
        if path in self._contents:
            return self._contents[path]
        with open(path, "rb") as stream:
            return stream.read()

    def content(self, path: str) -> bytes:
        """The bytes of a file as they are after fixes."""
        return self._read(self._real.get(path, path))

    def _graded(self, finding: Finding) -> Finding:
        severity = self.settings.severity.get(finding.rule) or self.settings.severity.get(finding.name)
        return replace(finding, severity=severity) if severity else finding

    def _fingerprint(self) -> str:
        rules = [f"{rule.id}={type(rule).__module__}" for rule in self.rules]
        places = [_stamp(rule) for rule in self.rules if not type(rule).__module__.startswith("hecate_lint.")]
        listed = self.settings.listed or ""
        return cache.fingerprint([*rules, *places, repr(self.settings), listed, *sorted(self.checker.ids)])


def mend(path: str, data: bytes, findings: Iterable[Finding]) -> bytes | None:
    """The bytes with the findings' edits applied; None where the result would not parse or encode."""
    source = Source(path, data)
    edits = [(edit.start, edit.end, edit.text) for finding in findings for edit in finding.edits]
    text = apply_edits(source.text, edits)
    mended = source.encode(text)
    if mended is None or source.encode(source.text) != data:
        return None
    try:
        Source(path, mended).parse()
    except UnreadableError:
        return None
    return mended


def choose(settings: Settings, select: Sequence[str], ignore: Sequence[str]) -> Settings:
    """Settings with --select and --ignore of the command line."""
    changed = settings
    if select:
        changed = replace(changed, select=tuple(select), extend_select=())
    if ignore:
        changed = replace(changed, ignore=(*settings.ignore, *ignore))
    return changed


def _stamp(rule: Rule) -> str:
    import sys

    file = getattr(sys.modules.get(type(rule).__module__), "__file__", None)
    return f"{file}:{os.stat(file).st_mtime_ns}" if file else ""


def _replace(path: str, data: bytes) -> None:
    # Same folder and mode, then one rename: a reader sees the old bytes or the new ones.
    target = os.path.realpath(path)
    temporary = f"{target}.hecate-lint-{os.getpid()}"
    with open(temporary, "wb") as stream:
        stream.write(data)
    os.chmod(temporary, os.stat(target).st_mode)
    os.replace(temporary, target)
