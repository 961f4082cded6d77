"""Findings for programs: JSON, SARIF 2.1.0 and GitHub workflow commands."""

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from hecate_lint.model import Finding
from hecate_lint.registry import ENGINE
from hecate_lint.report.text import one_line
from hecate_lint.rule import Rule

SCHEMA = "hecate-lint/1"
_LEVELS = {"error": "error", "warn": "warning", "info": "note"}
_COMMANDS = {"error": "error", "warn": "warning", "info": "notice"}


def as_json(findings: Iterable[Finding]) -> str:
    """One object: `schema` and `findings`."""
    records = [
        {
            "path": finding.path,
            "line": finding.line,
            "column": finding.column,
            "end_line": finding.end_line,
            "end_column": finding.end_column,
            "rule": finding.rule,
            "name": finding.name,
            "severity": finding.severity,
            "confidence": finding.confidence,
            "message": finding.message,
            "why": finding.why,
            "mend": finding.mend,
            "fixable": finding.fixable,
            "fix": finding.fix,
        }
        for finding in findings
    ]
    return json.dumps({"schema": SCHEMA, "findings": records}, indent=1) + "\n"


def as_sarif(findings: Iterable[Finding], rules: Iterable[Rule], version: str) -> str:
    """A SARIF 2.1.0 log with one run."""
    described: list[dict[str, Any]] = [
        {
            "id": rule.id,
            "name": rule.name,
            "shortDescription": {"text": (rule.__doc__ or rule.name).strip().splitlines()[0]},
            "fullDescription": {"text": rule.why or rule.name},
            "help": {"text": rule.mend or rule.name},
            "defaultConfiguration": {"level": _LEVELS[rule.severity], "enabled": rule.default},
            "properties": {"group": rule.group},
        }
        for rule in rules
    ]
    described += [
        {"id": rule, "name": name, "shortDescription": {"text": text}} for rule, (name, text) in sorted(ENGINE.items())
    ]
    order = {rule["id"]: number for number, rule in enumerate(described)}
    results = [_result(finding, order) for finding in findings]
    driver = {"name": "hecate-lint", "version": version, "semanticVersion": version, "rules": described}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def as_github(findings: Iterable[Finding]) -> str:
    """Workflow commands that GitHub shows as annotations."""
    lines = []
    for finding in findings:
        values = {"file": finding.path, "line": finding.line, "endLine": finding.end_line}
        if finding.line == finding.end_line:  # GitHub refuses columns over several lines
            values |= {"col": finding.column, "endColumn": finding.end_column}
        values["title"] = f"{finding.rule} {finding.name}"
        said = ",".join(f"{key}={_property(str(value))}" for key, value in values.items())
        mend = f" Mend: {finding.mend}" if finding.mend else ""
        lines.append(f"::{_COMMANDS[finding.severity]} {said}::{_data(one_line(finding.message) + mend)}\n")
    return "".join(lines)


def _result(finding: Finding, order: dict[str, int]) -> dict[str, Any]:
    region = {
        "startLine": finding.line,
        "startColumn": finding.column,
        "endLine": finding.end_line,
        "endColumn": finding.end_column,
    }
    place = {"artifactLocation": {"uri": quote(finding.path)}, "region": region}
    return {
        "ruleId": finding.rule,
        "ruleIndex": order[finding.rule],
        "level": _LEVELS[finding.severity],
        "message": {"text": finding.message + (f" Mend: {finding.mend}" if finding.mend else "")},
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"hecate/v1": f"{finding.rule}:{finding.scope}:{finding.digest}"},
        "properties": {"confidence": finding.confidence, "fix": finding.fix},
    }


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
