"""Known findings that a run does not report: keyed by code, never by line number, so the list only shrinks."""

import json
import os
from collections import Counter
from collections.abc import Iterable

from hecate_lint.check import engine_finding
from hecate_lint.model import Finding, LintError

FILE = ".hecate-lint-baseline.json"
SCHEMA = "hecate-lint-baseline/1"
Key = tuple[str, str, str, str, int]


def keys(findings: Iterable[Finding]) -> list[tuple[Key, Finding]]:
    """(rule, path, enclosing definition, code digest, ordinal) of each finding."""
    seen: Counter[tuple[str, str, str, str]] = Counter()
    found = []
    for finding in findings:
        base = (finding.rule, finding.path, finding.scope, finding.digest)
        found.append(((*base, seen[base]), finding))
        seen[base] += 1
    return found


def write(root: str, findings: Iterable[Finding]) -> int:
    """Write the baseline of these findings; the number of entries."""
    entries = sorted(list(key) for key, finding in keys(findings) if not finding.rule.startswith("HL-"))
    path = os.path.join(root, FILE)
    with open(path, "w", encoding="utf-8") as stream:
        json.dump({"schema": SCHEMA, "entries": entries}, stream, indent=1)
        stream.write("\n")
    return len(entries)


def check(root: str, findings: Iterable[Finding]) -> list[Finding]:
    """Findings that are not in the baseline, and one for each entry that matches nothing any more."""
    path = os.path.join(root, FILE)
    try:
        with open(path, encoding="utf-8") as stream:
            document = json.load(stream)
        entries = {(str(r), str(p), str(s), str(d), int(n)) for r, p, s, d, n in document["entries"]}
    except OSError as error:
        raise LintError(f"{path}: cannot be read: {error.strerror}; `--baseline write` makes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LintError(f"{path}: not a baseline of hecate-lint; `--baseline write` makes one") from error
    keyed = keys(findings)
    kept = [finding for key, finding in keyed if key not in entries]
    for stale in sorted(entries - {key for key, _ in keyed}):
        message = (
            f"baseline entry {stale[0]} in {stale[2] or 'the module'} matches nothing; `--baseline write` removes it"
        )
        kept.append(engine_finding("HL-05", stale[1], 1, message))
    return sorted(kept, key=lambda finding: finding.order)
