"""Specifications: Markdown files with one fenced block whose info string is CONTRACT and whose content is TOML."""

import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_FENCE = re.compile(r"^```\s*CONTRACT\s*$", re.M)
_END = re.compile(r"^```\s*$", re.M)
_HEADING = re.compile(r"^##\s+(.+?)\s*$", re.M)
_NUMBERED = re.compile(r"^\s*(\d+)[a-z]?\.\s", re.M)
_BRACKETED = re.compile(r"\((\d+)[a-z]?\)")


@dataclass(frozen=True)
class Spec:
    """One specification file; `problem` says why its contract cannot be read, empty when it can."""

    path: str
    text: str
    contract: dict[str, Any] = field(default_factory=dict)
    line: int = 1  # of the opening fence
    problem: str = ""

    @property
    def kind(self) -> str:
        """What is specified: rule, retention, strategy ..."""
        return str(self.contract.get("kind", ""))

    @property
    def name(self) -> str:
        """The name under which it is registered."""
        return str(self.contract.get("name", ""))

    @property
    def sections(self) -> list[str]:
        """Headings of the second level."""
        return _HEADING.findall(self.text)

    @property
    def equations(self) -> set[int]:
        """The equation numbers that the file gives."""
        return {int(n) for n in [*_NUMBERED.findall(self.text), *_BRACKETED.findall(self.text)]}

    @property
    def has_example(self) -> bool:
        """Whether a worked example with an assertion is there."""
        _, _, rest = self.text.partition("## Worked example")
        return bool(re.search(r"```python\n.*?assert .*?```", rest, re.S))

    def line_of(self, key: str) -> int:
        """The line of a key inside the contract, the fence's line when it is not there."""
        for number, line in enumerate(self.text.splitlines()[self.line :], self.line + 1):
            if line.startswith("```"):
                break
            if re.match(rf"\[?{re.escape(key)}\b", line):
                return number
        return self.line


def read(path: str) -> Spec | None:
    """One Markdown file as a spec; None when it has no CONTRACT block."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except (OSError, UnicodeDecodeError):
        return None
    fence = _FENCE.search(text)
    if fence is None:
        return None
    line = text.count("\n", 0, fence.start()) + 1
    end = _END.search(text, fence.end())
    if end is None:
        return Spec(
            path, text, line=line, problem="the CONTRACT block is never closed; ``` on a line of its own closes it"
        )
    try:
        contract = tomllib.loads(text[fence.end() : end.start()])
    except tomllib.TOMLDecodeError as error:
        return Spec(path, text, line=line, problem=f"the CONTRACT block is not TOML: {error}")
    return Spec(path, text, contract, line)


def below(folders: Iterable[str]) -> list[Spec]:
    """Every spec under these folders, each file once, by path."""
    seen: dict[str, Spec] = {}
    for folder in folders:
        for at, folders_in, files in os.walk(folder):
            folders_in.sort()
            for name in sorted(files):
                if name.endswith(".md"):
                    path = os.path.realpath(os.path.join(at, name))
                    if path not in seen and (found := read(path)) is not None:
                        seen[path] = found
    return [seen[path] for path in sorted(seen)]
