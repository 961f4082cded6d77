"""Findings for people: place, code line, caret, why it matters here, the mend."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable

from hecate_lint.model import Finding
from hecate_lint.source import Source, UnreadableError

_COLOURS = {"error": "31", "warn": "33", "info": "36"}
_WITHOUT_CODE = ("HL-10", "HL-11", "HL-12", "HL-13")
WIDTH = 160  # characters of a code line that are shown


def render(findings: Iterable[Finding], read: Callable[[str], bytes], colour: bool) -> str:
    """One block per finding."""
    sources: dict[str, Source | None] = {}
    blocks = []
    for finding in findings:
        if finding.rule in _WITHOUT_CODE:
            blocks.append(block(finding, None, colour))  # what could not be read once is not read again
            continue
        if finding.path not in sources:
            sources[finding.path] = _source(finding.path, read)
        blocks.append(block(finding, sources[finding.path], colour))
    return "\n".join(blocks)


def block(finding: Finding, source: Source | None, colour: bool = False) -> str:
    """One finding as it is printed."""
    paint = _paint if colour else _plain
    doubt = "" if finding.confidence == "certain" else f" [{finding.confidence}]"
    head = f"{finding.path}:{finding.line}:{finding.column}: "
    head += paint(finding.severity, _COLOURS[finding.severity])
    head += f" {paint(finding.rule, '1')} {finding.name}: {one_line(finding.message)}{doubt}"
    lines = [head]
    if source is not None:
        lines += _excerpt(finding, source)
    if finding.why:
        lines.append(f"    why:  {finding.why}")
    if finding.mend:
        mark = {"safe": " (--fix)", "unsafe": " (--unsafe-fixes)"}.get(finding.fix, "")
        lines.append(f"    mend: {finding.mend}{mark}")
    return "\n".join(lines) + "\n"


def summary(findings: list[Finding], files: int, suppressed: int) -> str:
    """The last line: how many of what in how many files."""
    counts = Counter(finding.severity for finding in findings)
    parts = [f"{counts[severity]} {severity}" for severity in ("error", "warn", "info") if counts[severity]]
    said = ", ".join(parts) or "no findings"
    fixable = sum(finding.fixable for finding in findings)
    tail = f"; {fixable} fixable" if fixable else ""
    quiet = f"; {suppressed} suppressed with a reason" if suppressed else ""
    return f"hecate lint: {said} in {files} {'file' if files == 1 else 'files'}{tail}{quiet}"


def statistics(findings: Iterable[Finding]) -> str:
    """Counts per rule, most frequent first."""
    counts = Counter((finding.rule, finding.name, finding.severity, finding.fix) for finding in findings)
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "".join(
        f"{count:6d}  {rule:6s} {name:36s} {severity:5s} {'' if fix == 'none' else fix + ' fix'}".rstrip() + "\n"
        for (rule, name, severity, fix), count in rows
    )


def wants_colour() -> bool:
    """Whether stdout is a terminal whose user did not refuse colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def one_line(message: str) -> str:
    """A message without line breaks or control characters."""
    return "".join(c if c.isprintable() else " " for c in message)


def _excerpt(finding: Finding, source: Source) -> list[str]:
    raw = source.line(finding.line)
    code = raw.expandtabs(4)
    before = len(raw[: finding.column - 1].expandtabs(4))
    end = finding.end_column - 1 if finding.end_line == finding.line else len(raw)
    width = max(1, len(raw[:end].rstrip().expandtabs(4)) - before)
    if len(code) > WIDTH:
        start = max(0, min(before - 20, len(code) - WIDTH))
        code, before = code[start : start + WIDTH], before - start
        width = min(width, WIDTH - before)
    number = f"{finding.line:5d}"
    return [f"{number} | {one_line(code).rstrip()}", f"      | {' ' * before}{'^' * max(1, width)}"]


def _source(path: str, read: Callable[[str], bytes]) -> Source | None:
    try:
        return Source(path, read(path))
    except (OSError, UnreadableError):
        return None


def _paint(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m"


def _plain(text: str, code: str) -> str:
    return text
