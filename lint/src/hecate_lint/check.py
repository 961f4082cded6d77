"""Lints one file: nominate on `ast`, confirm on libcst, suppress, and say it with exact positions."""

import ast
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from hecate_lint import suppress
from hecate_lint.facts import File, is_dead
from hecate_lint.index import FUNCTIONS, ancestors, statement
from hecate_lint.model import Confidence, Edit, Finding, Hit, Severity
from hecate_lint.registry import ENGINE
from hecate_lint.rule import Rule
from hecate_lint.settings import Settings
from hecate_lint.source import Source, UnreadableError

if TYPE_CHECKING:
    from hecate_lint.tree import Spot

_RANK: dict[str, int] = {"certain": 0, "likely": 1, "possible": 2}


@dataclass
class Checked:
    """What linting one file gave."""

    findings: list[Finding] = field(default_factory=list)
    suppressed: list[tuple[str, int, str]] = field(default_factory=list)  # rule, line, reason
    failed: str = ""  # a traceback of ours, for exit status 70


class Checker:
    """Runs a fixed set of rules over files, one after another."""

    def __init__(
        self,
        rules: Sequence[Rule],
        every: Sequence[Rule],
        confidence: Confidence = "likely",
        settings: Settings | None = None,
    ):
        self.rules = rules
        self.settings = settings
        self.threshold = _RANK[confidence]
        self.ids = {key: rule.id for rule in every for key in (rule.id, rule.name, *rule.also)}

    def check(self, path: str, data: bytes, skip: frozenset[str] = frozenset()) -> Checked:
        """Lint the bytes of one file; `skip` are rule ids that its path excludes."""
        result = Checked()
        try:
            source = Source(path, data)
            tree = source.parse()
        except UnreadableError as error:
            result.findings.append(engine_finding("HL-10", path, error.line, str(error)))
            return result
        try:
            file = File(source, tree, self.settings)
            allows, complaints = suppress.read(source.text, self.ids)
            active = [rule for rule in self.rules if rule.id not in skip]
            found = list(self._confirmed(file, active, result))
        except (RecursionError, MemoryError):
            result.findings.append(engine_finding("HL-11", path, 1, "nested too deeply to be linted"))
            return result
        for finding, lines in found:
            if suppress.silences(allows, finding.rule, lines):
                reason = next(a.reason for a in allows if finding.rule in a.used)
                result.suppressed.append((finding.rule, finding.line, reason))
            else:
                result.findings.append(finding)
        complaints += suppress.unused(allows, {rule.id for rule in active if not hasattr(rule, "judge")})
        result.findings += [engine_finding(c.rule, path, c.line, c.message, c.column) for c in complaints]
        result.findings.sort(key=lambda finding: finding.order)
        return result

    def _confirmed(self, file: File, rules: Sequence[Rule], result: Checked) -> Iterator[tuple[Finding, set[int]]]:
        hits = list(self._nominated(file, rules, result))
        if not hits:
            return
        from libcst import matchers

        from hecate_lint.tree import Tree

        tree = Tree(file.source)
        seen: set[tuple[str, int, int]] = set()
        for rule, hit in hits:
            try:
                spot = tree.find(hit.node)
                if spot is None or not matchers.matches(spot.node, rule.pattern(matchers, hit)):
                    continue
                if not rule.confirm(spot.node, hit):
                    continue
                finding = self.finding(file, rule, hit, spot)
            except (RecursionError, MemoryError):
                raise
            except Exception as error:  # one rule's fault must not silence the others
                self._fault(file, rule, error, result)
                continue
            key = (rule.id, finding.line, finding.column)
            if key not in seen:
                seen.add(key)
                yield finding, allow_lines(hit.node, finding)

    def _nominated(self, file: File, rules: Sequence[Rule], result: Checked) -> Iterator[tuple[Rule, Hit]]:
        words = file.index.words
        for rule in rules:
            if rule.words and rule.words.isdisjoint(words):
                continue
            try:
                for hit in rule.nominate(file):
                    if _RANK[hit.confidence] <= self.threshold and not is_dead(hit.node, file.names):
                        yield rule, hit
            except (RecursionError, MemoryError):
                raise
            except Exception as error:  # one rule's fault must not silence the others
                self._fault(file, rule, error, result)

    def _fault(self, file: File, rule: Rule, error: Exception, result: Checked) -> None:
        import traceback

        reason = f"rule {rule.id} failed here: {type(error).__name__}: {str(error)[:100]}"
        result.findings.append(engine_finding("HL-12", file.path, 1, " ".join(reason.split())))
        if type(rule).__module__.startswith("hecate_lint."):
            result.failed = traceback.format_exc()

    def finding(self, file: File, rule: Rule, hit: Hit, spot: "Spot") -> Finding:
        """The finding of a confirmed hit, with positions and edits from its libcst node."""
        line, column, end_line, end_column = spot.place
        if isinstance(
            hit.node, (*FUNCTIONS, ast.ClassDef, ast.For, ast.AsyncFor, ast.While, ast.If, ast.Try, ast.With)
        ):
            end_line, end_column = line, len(file.source.line(line))  # the header, not the body
        edits: tuple[Edit, ...] = ()
        if rule.fix_kind != "none" and hit.fixable:
            new = rule.fix(spot.node, hit)
            if new is not None:
                start = file.source.offset(spot.place[0], spot.place[1])
                end = file.source.offset(spot.place[2], spot.place[3])
                edits = (Edit(start, end, new if isinstance(new, str) else spot.code(new)),)
        severity = cast(Severity, hit.severity or rule.severity)
        scope = file.qualified(hit.node)
        return Finding(
            path=file.path,
            line=line,
            column=column + 1,
            end_line=end_line,
            end_column=end_column + 1,
            rule=rule.id,
            name=rule.name,
            severity=severity,
            confidence=cast(Confidence, hit.confidence),
            message=hit.message,
            why=hit.why or rule.why,
            mend=hit.mend or rule.mend,
            fix=(hit.fix_kind or rule.fix_kind) if edits else "none",
            edits=edits,
            scope=scope,
            digest=code_digest(file.source.line(line)),
        )


def code_digest(line: str) -> str:
    """A hash of one code line that spacing and comments do not change."""
    return hashlib.blake2b(re.sub(r"\s+", "", line.split("#")[0]).encode("utf-8", "replace"), digest_size=8).hexdigest()


def allow_lines(node: ast.AST, finding: Finding) -> set[int]:
    """The lines on which a suppression of this finding counts."""
    lines = set(range(finding.line, finding.end_line + 1))
    held = statement(node)
    if held is not None:
        lines |= {held.lineno} if _is_compound(held) else {held.lineno, held.end_lineno}  # type: ignore[union-attr,arg-type]
    for at in [node, *ancestors(node)]:
        if isinstance(at, (*FUNCTIONS, ast.ClassDef)):
            lines |= {at.lineno, *(d.lineno for d in at.decorator_list)}
    return lines


def _is_compound(node: ast.AST) -> bool:
    return hasattr(node, "body")


def engine_finding(rule: str, path: str, line: int, message: str, column: int = 0) -> Finding:
    """A finding of the engine's own."""
    name, why = ENGINE[rule]
    severity: Severity = "warn" if rule in ("HL-03", "HL-05") else "error"
    return Finding(path, line, column + 1, line, column + 1, rule, name, severity, "certain", message, why=why)
