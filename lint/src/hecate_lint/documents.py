"""Markdown documents: tables, sections and code spans with their lines."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from hecate_lint.pattern import Pattern

_SPAN = Pattern(r"(?<!`)`([^`\n]+)`(?!`)")
_RULE = Pattern(r"^\s*\|?\s*:?-{2,}")


@dataclass
class Table:
    """One table: header cells, rows, the line of its header, and the text of its section."""

    line: int
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    section: str = ""


@dataclass(frozen=True)
class Document:
    """One Markdown file."""

    path: str
    text: str

    def spans(self) -> Iterator[tuple[int, str]]:
        """(line, code) of every inline code span outside fences."""
        for number, line in self._prose():
            for match in _SPAN.finditer(line):
                yield number, match.group(1)

    def tables(self) -> list[Table]:
        """Every table with the text between the headings around it."""
        lines = self.text.splitlines()
        sections = self._sections()
        found: list[Table] = []
        prose = {number for number, _ in self._prose()}
        for number in range(1, len(lines)):
            if number + 1 in prose and _RULE.match(lines[number]) and "|" in lines[number] and "|" in lines[number - 1]:
                table = Table(number, _cells(lines[number - 1]))
                for row in lines[number + 1 :]:
                    if "|" not in row:
                        break
                    table.rows.append(_cells(row))
                table.section = next(text for first, last, text in sections if first <= number <= last)
                found.append(table)
        return found

    def _prose(self) -> Iterator[tuple[int, str]]:
        inside = False
        for number, line in enumerate(self.text.splitlines(), 1):
            if line.lstrip().startswith(("```", "~~~")):
                inside = not inside
            elif not inside:
                yield number, line

    def _sections(self) -> list[tuple[int, int, str]]:
        lines = self.text.splitlines()
        starts = [n for n, line in self._prose() if re.match(r"#{1,3} ", line)]
        bounds = [1, *starts, len(lines) + 1]
        return [(a, b - 1, "\n".join(lines[a - 1 : b - 1])) for a, b in pairwise(bounds) if b > a]


def documents(root: str, names: Iterable[str]) -> list[Document]:
    """The Markdown files that these names (files or folders below the root) mean."""
    found: list[Document] = []
    for name in names:
        whole = os.path.join(root, name)
        paths = [whole] if os.path.isfile(whole) else []
        for folder, folders, files in os.walk(whole):
            folders.sort()
            paths += [os.path.join(folder, file) for file in sorted(files) if file.endswith(".md")]
        for path in paths:
            try:
                with open(path, encoding="utf-8") as stream:
                    found.append(Document(path, stream.read()))
            except (OSError, UnicodeDecodeError):
                continue
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
