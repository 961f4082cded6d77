"""Suppressions: `# hecate: allow CS-47 -- reason`, by id or name, the reason required, unused ones reported.

A suppression counts on the line of the finding, on the first or last line of its statement, and on the decorator or
`def` line for a whole body; `allow-file` in the first twenty lines counts for the file.
"""

import io
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hecate_lint.pattern import Pattern
from hecate_lint.registry import ENGINE

_COMMENT = Pattern(r"#\s*hecate:\s*(?P<body>[^#]*)")
_ALLOW = Pattern(r"^(?P<verb>allow(?:-file)?)\s+(?P<ids>[\w-]+(?:\s*,\s*[\w-]+)*)\s*(?:--\s*(?P<reason>.*\S))?\s*$")
HEAD = 20  # lines in which allow-file may stand


@dataclass
class Allow:
    """One suppression comment; `used` collects the rules that it silenced."""

    line: int
    column: int
    whole_file: bool
    ids: tuple[str, ...]
    reason: str
    used: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Complaint:
    """Something wrong with a suppression itself."""

    rule: str
    line: int
    column: int
    message: str


def read(text: str, ids_by_name: dict[str, str]) -> tuple[list[Allow], list[Complaint]]:
    """All suppressions of a file, and what is wrong with them; `ids_by_name` maps ids and names to ids."""
    allows: list[Allow] = []
    complaints: list[Complaint] = []
    if "hecate:" not in text:
        return allows, complaints
    for line, column, comment in _comments(text):
        match = _COMMENT.search(comment)
        if match is None:
            continue
        column += match.start()
        said = _ALLOW.match(match["body"].strip())
        if said is None:
            message = "`# hecate: ...` is no suppression; `# hecate: allow ID -- reason` would be one"
            complaints.append(Complaint("HL-04", line, column, message))
            continue
        words = [word.strip() for word in said["ids"].split(",")]
        ids = tuple(ids_by_name[word] for word in words if word in ids_by_name)
        for word in words:
            if word not in ids_by_name and word.upper() not in ENGINE:
                complaints.append(Complaint("HL-02", line, column, f'suppression of "{word}", which no rule is called'))
        whole = said["verb"] == "allow-file"
        if not said["reason"]:
            message = f"suppression of {', '.join(words)} without a reason; add ` -- why`"
            complaints.append(Complaint("HL-01", line, column, message))
        elif whole and line > HEAD:
            complaints.append(Complaint("HL-04", line, column, f"allow-file after line {HEAD} does not count"))
        else:
            allows.append(Allow(line, column, whole, ids, said["reason"]))
    return allows, complaints


def silences(allows: Iterable[Allow], rule: str, lines: Iterable[int]) -> bool:
    """Whether a suppression covers a rule on one of these lines; marks it used."""
    at = set(lines)
    for allow in allows:
        if rule in allow.ids and (allow.whole_file or allow.line in at):
            allow.used.add(rule)
            return True
    return False


def unused(allows: Iterable[Allow], ran: set[str]) -> Iterator[Complaint]:
    """A complaint for each rule that ran and that a suppression names in vain."""
    for allow in allows:
        for rule in allow.ids:
            if rule in ran and rule not in allow.used:
                yield Complaint("HL-03", allow.line, allow.column, f"suppression of {rule} silences nothing; remove it")


def _comments(text: str) -> Iterator[tuple[int, int, str]]:
    # Strings that merely contain the marker are no comments, so the real tokenizer decides.
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        for token in tokenize.generate_tokens(io.StringIO(unified).readline):
            if token.type == tokenize.COMMENT and "hecate:" in token.string:
                yield token.start[0], token.start[1], token.string
    except (tokenize.TokenError, SyntaxError):
        return
