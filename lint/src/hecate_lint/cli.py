"""`hecate-lint` and `hecate lint`: arguments in, a report on stdout, an exit status out.

Exit status: 0 clean, 1 findings, 2 wrong use or configuration, 70 a fault of ours.
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from hecate_lint.model import LintError

if TYPE_CHECKING:
    from hecate_lint.session import Report, Session

CLEAN, FOUND, WRONG, FAULT = 0, 1, 2, 70
FORMATS = ("text", "json", "sarif", "github")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LintError(f"{message}; `{self.prog} --help` lists what there is")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = _Parser(prog="hecate-lint", description="The linter that knows the mistakes of memory models.")
    add = made.add_argument
    add("paths", nargs="*", metavar="PATHS", help="files and folders; the current folder when none is given")
    add("--fix", action="store_true", help="apply safe fixes")
    add("--unsafe-fixes", action="store_true", help="apply fixes that may change results too")
    add("--diff", action="store_true", help="print the fixes as a diff and change nothing")
    add("--format", choices=FORMATS, default="text")
    add("--select", action="append", default=[], metavar="RULES", help="only these rules, groups or prefixes (a,b)")
    add("--ignore", action="append", default=[], metavar="RULES", help="not these rules")
    add("--confidence", choices=("certain", "likely", "possible"), help="report from this confidence on (likely)")
    add("--explain", metavar="ID", help="the page of a rule, `all` for the table")
    add("--statistics", action="store_true", help="counts per rule instead of findings")
    add("--baseline", choices=("write", "check"), help="write known findings to a file, or report only new ones")
    add("--jobs", type=int, default=0, metavar="N", help="worker processes; as many as processors by default")
    add("--no-cache", action="store_true")
    add("--stdin-filename", metavar="PATH", help="lint standard input as if it were this file")
    add("--config", metavar="FILE", help="a pyproject.toml; the nearest one with [tool.hecate.lint] by default")
    add("--show-settings", action="store_true")
    add("--self-check", action="store_true", help="check the rules themselves: pages, examples, coverage")
    add("--strict", action="store_true", help="warnings fail too")
    add("--version", action="store_true")
    return made


def main(argv: list[str]) -> int:
    """Run with these arguments; the exit status."""
    try:
        return _main(argv)
    except LintError as error:
        print(f"hecate-lint: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return CLEAN
    except Exception:  # a fault of ours: the reader gets one line, the traceback goes to a file
        import traceback

        return _fault(traceback.format_exc())


def entry() -> None:
    """The console script."""
    raise SystemExit(main(sys.argv[1:]))


def _main(argv: list[str]) -> int:
    try:
        given = parser().parse_args(argv)
    except SystemExit as end:  # --help
        return int(end.code or 0)
    if given.version:
        print(f"hecate-lint {version()}")
        return CLEAN
    if given.explain:
        return _explain(given.explain)
    if given.self_check:
        from hecate_lint.conformance.coverage import self_check

        return self_check()
    from hecate_lint import settings
    from hecate_lint.session import Options, Session, choose

    if given.jobs < 0:
        raise LintError(f"--jobs {given.jobs}; expected 0 (all processors) or more")
    place = given.stdin_filename or _common(given.paths)
    found = settings.load(given.config or settings.find(place), "" if given.config else os.getcwd())
    found = choose(found, _words(given.select), _words(given.ignore))
    if given.confidence:
        from dataclasses import replace

        found = replace(found, confidence=given.confidence)
    stdin = (given.stdin_filename, sys.stdin.buffer.read()) if given.stdin_filename else None
    options = Options(
        jobs=given.jobs,
        use_cache=not given.no_cache and stdin is None,
        fix=given.fix or given.diff,
        unsafe=given.unsafe_fixes,
        write=not given.diff,
        stdin=stdin,
    )
    session = Session(found, options)
    if given.show_settings:
        return _show(session)
    report = session.lint(given.paths or ["."])
    if given.baseline == "write":
        from hecate_lint import baseline

        count = baseline.write(found.root, report.findings)
        print(f"{os.path.join(found.root, baseline.FILE)}: {count} known findings")
        return CLEAN
    if given.baseline == "check":
        from hecate_lint import baseline

        report.findings = baseline.check(found.root, report.findings)
    return _print(given, session, report)


def _print(given: argparse.Namespace, session: "Session", report: "Report") -> int:
    findings = report.findings
    if given.diff:
        sys.stdout.write(_diff(report.changed))
    elif given.stdin_filename and (given.fix or given.unsafe_fixes):
        sys.stdout.flush()
        sys.stdout.buffer.write(session.content(given.stdin_filename))
        sys.stdout.flush()
    elif given.format == "json":
        from hecate_lint.report.machine import as_json

        sys.stdout.write(as_json(findings))
    elif given.format == "sarif":
        from hecate_lint.report.machine import as_sarif

        sys.stdout.write(as_sarif(findings, session.every, version()))
    elif given.format == "github":
        from hecate_lint.report.machine import as_github

        sys.stdout.write(as_github(findings))
    else:
        from hecate_lint.report import text

        if given.statistics:
            sys.stdout.write(text.statistics(findings))
        elif findings:
            sys.stdout.write(text.render(findings, session.content, text.wants_colour()) + "\n")
        print(text.summary(findings, report.files, len(report.suppressed)))
    if report.failed:
        return _fault(report.failed)
    if given.diff and report.changed:
        return FOUND
    fails = {"error", "warn"} if given.strict else {"error"}
    return FOUND if any(finding.severity in fails for finding in findings) else CLEAN


def _explain(word: str) -> int:
    from hecate_lint import explain, registry

    rules, _ = registry.all_rules()
    if word == "all":
        print(explain.overview(rules), end="")
        return CLEAN
    if word.upper() in registry.ENGINE:
        print(explain.engine_page(word.upper()), end="")
        return CLEAN
    for rule in rules:
        if word.upper() in (rule.id, *rule.also) or word == rule.name:
            print(explain.page(rule), end="")
            return CLEAN
    registry.known(rules, word)
    raise LintError(f'"{word}" is a group or prefix; --explain takes one rule')


def _show(session: "Session") -> int:
    import json

    shown = session.settings.shown() | {"rules": [f"{rule.id} {rule.name}" for rule in session.rules]}
    print(json.dumps({"schema": "hecate-lint-settings/1", "settings": shown}, indent=1))
    return CLEAN


def _diff(changed: dict[str, tuple[str, str]]) -> str:
    import difflib

    parts = []
    for path, (old, new) in sorted(changed.items()):
        before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
        for line in difflib.unified_diff(before, after, f"a/{path}", f"b/{path}"):
            parts.append(line if line.endswith(("\n", "\r")) else line + "\n\\ No newline at end of file\n")
    return "".join(parts)


def _words(given: list[str]) -> list[str]:
    return [word.strip() for item in given for word in item.split(",") if word.strip()]


def _common(paths: list[str]) -> str:
    return os.path.commonpath([os.path.abspath(path) for path in paths]) if paths else os.getcwd()


def _fault(trace: str) -> int:
    import tempfile

    descriptor, path = tempfile.mkstemp(prefix="hecate-lint-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(trace)
    print(f"hecate-lint: a fault of ours; the traceback is in {path}", file=sys.stderr)
    return FAULT


def version() -> str:
    """The installed version of hecate-lint."""
    from importlib.metadata import version as installed

    return installed("hecate-lint")


if __name__ == "__main__":
    entry()
