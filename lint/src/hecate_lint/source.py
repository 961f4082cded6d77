"""One Python file as bytes and text, and the way back to the same bytes.

Lines end at CR LF, CR or LF and nowhere else, as in Python's own tokenizer: form feeds and Unicode separators
do not end one. Columns of `ast` count UTF-8 bytes; everything here counts characters.
"""

import ast
import codecs
import re
import warnings
from bisect import bisect_right
from collections.abc import Sequence

_COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_BLANK = re.compile(rb"^[ \t\f]*(?:#|$)")
_NEWLINE = re.compile(r"\r\n?|\n")


class UnreadableError(ValueError):
    """A file that cannot be decoded or parsed; `line` is where, 1 when unknown."""

    def __init__(self, message: str, line: int = 1):
        super().__init__(message)
        self.line = max(1, line)


class Source:
    """Text of one file with its line table; `encode` gives the bytes back, byte for byte."""

    def __init__(self, path: str, data: bytes):
        self.path = path
        self.data = data
        self.bom = data.startswith(codecs.BOM_UTF8)
        self.encoding = _encoding(data)
        body = data[3:] if self.bom else data
        try:
            self.text = body.decode(self.encoding)
        except (UnicodeError, ValueError) as error:
            raise UnreadableError(f"not valid {self.encoding}: {str(error).splitlines()[0][:120]}") from error
        self.starts = [0, *(match.end() for match in _NEWLINE.finditer(self.text))]
        self.ascii = self.text.isascii()

    def encode(self, text: str) -> bytes | None:
        """The bytes of `text` in this file's encoding, None where the codec does not round-trip."""
        try:
            data = text.encode(self.encoding)
        except UnicodeError:
            return None
        return codecs.BOM_UTF8 + data if self.bom else data

    def line(self, number: int) -> str:
        """Line `number` (from 1) without its line end; empty past the end."""
        if not 1 <= number <= len(self.starts):
            return ""
        end = self.starts[number] if number < len(self.starts) else len(self.text)
        return self.text[self.starts[number - 1] : end].rstrip("\r\n")

    def column(self, line: int, byte_column: int) -> int:
        """Characters before the given UTF-8 byte column of a line."""
        if self.ascii or byte_column == 0:
            return byte_column
        return len(self.line(line).encode("utf-8", "surrogatepass")[:byte_column].decode("utf-8", "replace"))

    def offset(self, line: int, column: int) -> int:
        """Index into `text` of a 1-based line and a 0-based character column."""
        return self.starts[line - 1] + column

    def place(self, offset: int) -> tuple[int, int]:
        """The 1-based line and 0-based column of an index into `text`."""
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1]

    def slice_lines(self, first: int, last: int) -> str:
        """The text of lines first to last, both included, with their line ends."""
        end = self.starts[last] if last < len(self.starts) else len(self.text)
        return self.text[self.starts[first - 1] : end]

    def parse(self) -> ast.Module:
        """The syntax tree; `UnreadableError` says in one line why there is none."""
        try:
            with warnings.catch_warnings():  # what Python warns of, such as "\d", is no concern of any rule
                warnings.simplefilter("ignore")
                return ast.parse(self.text)
        except SyntaxError as error:
            reason = " ".join(str(error.msg).split()) or "invalid syntax"
            raise UnreadableError(f"cannot parse: {reason}", error.lineno or 1) from error
        except RecursionError as error:
            raise UnreadableError("cannot parse: nested too deeply for Python's own parser") from error
        except MemoryError as error:
            raise UnreadableError("cannot parse: too complex for Python's own parser") from error
        except (ValueError, OverflowError) as error:
            raise UnreadableError(f"cannot parse: {str(error).splitlines()[0][:120]}") from error


def apply_edits(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """`text` with (start, end, replacement) edits applied; of two that overlap the first one wins."""
    parts: list[str] = []
    at = 0
    for start, end, replacement in sorted(edits):
        if start < at:
            continue
        parts += [text[at:start], replacement]
        at = end
    parts.append(text[at:])
    return "".join(parts)


def _encoding(data: bytes) -> str:
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableError("not a Python source: UTF-16 text; save it as UTF-8")
    for line in data[:2000].splitlines()[:2]:
        match = _COOKIE.match(line)
        if match:
            name = match.group(1).decode("ascii")
            try:
                info = codecs.lookup(name)
            except (LookupError, ValueError) as error:
                raise UnreadableError(
                    f'unknown encoding "{name}" in the coding cookie; utf-8 would be right'
                ) from error
            if not getattr(info, "_is_text_encoding", True):
                raise UnreadableError(f'"{name}" is not a text encoding; utf-8 would be right')
            return info.name
        if not _BLANK.match(line):
            break
    return "utf-8"
