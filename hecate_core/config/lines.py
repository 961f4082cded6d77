"""On which line of a TOML file a key stands.

`tomllib` gives values without lines. This scanner walks a document that tomllib has accepted, so it
need not refuse anything; it knows keys, strings, tables, arrays of tables, inline tables and arrays.
"""

import bisect
import re
import tomllib

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Path, int]:
    """The line (from 1) of every key, table and array item in a valid document, by path."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.ends = [match.start() for match in re.finditer("\n", text)]
        self.lines: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # arrays of tables: items so far

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        self.blank()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.blank()
        return self.lines

    def header(self) -> Path:
        """`[a.b]` or `[[a.b]]`; the path with the index of every array of tables on the way."""
        start, is_array = self.at, self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        keys = self.keys()
        self.at += 2 if is_array else 1
        path: Path = ()
        for key in keys[:-1]:
            path = self.inside((*path, key))
        path = (*path, keys[-1])
        if is_array:
            self.counts[path] = self.counts.get(path, 0) + 1
            self.note(path, start)
        path = self.inside(path)
        self.note(path, start)
        return path

    def inside(self, path: Path) -> Path:
        return (*path, self.counts[path] - 1) if path in self.counts else path

    def note(self, path: Path, at: int) -> None:
        line = bisect.bisect_left(self.ends, at) + 1
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def pair(self, table: Path) -> None:
        start = self.at
        path = (*table, *self.keys())
        self.note(path, start)
        self.at += 1  # "="
        self.value(path)

    def keys(self) -> list[str]:
        """A dotted key; stops at what follows it, blanks skipped."""
        found = [self.key()]
        while self.text[self.at] == ".":
            self.at += 1
            found.append(self.key())
        return found

    def key(self) -> str:
        self.spaces()
        match = _BARE.match(self.text, self.at) or _STRING.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        self.spaces()
        raw = match.group()
        return str(tomllib.loads(f"key = {raw}")["key"]) if raw[0] in "\"'" else raw

    def value(self, path: Path) -> None:
        self.spaces()
        if self.text[self.at] == "{":
            self.inline_table(path)
        elif self.text[self.at] == "[":
            self.array(path)
        else:
            match = _STRING.match(self.text, self.at) or _SCALAR.match(self.text, self.at)
            assert match is not None
            self.at = match.end()

    def inline_table(self, path: Path) -> None:
        self.at += 1
        self.blank()
        while self.text[self.at] != "}":
            self.pair(path)
            self.comma()
        self.at += 1

    def array(self, path: Path) -> None:
        self.at += 1
        self.blank()
        index = 0
        while self.text[self.at] != "]":
            self.note((*path, index), self.at)
            self.value((*path, index))
            index += 1
            self.comma()
        self.at += 1

    def comma(self) -> None:
        self.blank()
        if self.text[self.at] == ",":
            self.at += 1
        self.blank()

    def spaces(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t":
            self.at += 1

    def blank(self) -> None:
        """Skip white space, line ends and comments."""
        match = _BLANK.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
