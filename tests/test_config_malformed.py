"""A thousand malformed configs: a valid one written in a random way, then one thing is made wrong."""

import random
import re
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path

import attrs

from .config_texts import complaint, written

INTEGERS = {
    ("seed",): 0,
    ("data", "batch"): 1,
    ("data", "length"): 1,
    ("model", "depth"): 1,
    ("model", "vocab"): 1,
    ("model", "attention", "window"): 1,
    ("model", "attention", "persistent"): 0,
    ("model", "memory", "chunk"): 1,
    ("model", "memory", "conv"): 0,
    ("schedule", "warmup"): 0,
    ("run", "steps"): 0,
    ("run", "checkpoint_interval"): 0,
    ("run", "keep"): 1,
    ("run", "threads"): 1,
}
OTHERS: dict[tuple[str, ...], str] = {
    ("model", "residual"): "true",
    ("model", "norm"): '"layer"',
    ("model", "expansion"): "2.5",
    ("model", "memory", "rule"): '"delta"',
    ("model", "memory", "aggregate"): "'sum'",
    ("schedule", "floor"): "0.25",
    ("run", "clip"): "1.5",
    ("run", "device"): '"cpu"',
    ("run", "wall"): "false",
}
TABLES = [(), ("data",), ("model",), ("model", "attention"), ("model", "memory"), ("schedule",), ("run",)]


class Document:
    """Settings written as TOML: by headers, dotted keys or inline tables, with comments between."""

    def __init__(self, settings: dict[tuple[str, ...], str], random_: random.Random) -> None:
        self.lines: list[str] = []
        self.line_of: dict[tuple[str, ...], int] = {}
        dotted = {table for table in TABLES if table and random_.random() < 0.3}
        inline = {("schedule",), ("data",)} - dotted if random_.random() < 0.5 else set()
        root = [path for path in settings if len(path) == 1 or path[:-1] in dotted or path[:-1] in inline]
        for path in [path for path in root if path[:-1] not in inline]:
            self.put(path, f"{'.'.join(path)} = {settings[path]}", random_)
        for flat in sorted(inline):
            inside = [path for path in settings if path[:-1] == flat]
            pairs = ", ".join(f"{path[-1]} = {settings[path]}" for path in inside)
            self.put((*flat, ""), f"{flat[0]} = {{ {pairs} }}", random_)
            self.line_of |= dict.fromkeys(inside, len(self.lines))
        for table in TABLES[1:]:
            inside = [path for path in settings if path[:-1] == table and path not in root]
            if inside and not any(other[: len(table)] == table and other in dotted for other in TABLES):
                self.put((*table, ""), f"[{'.'.join(table)}]", random_)
            elif inside:
                continue
            for path in inside:
                self.put(path, f"{path[-1]} = {settings[path]}", random_)
        self.text = "\n".join(self.lines) + "\n"

    def put(self, path: tuple[str, ...], line: str, random_: random.Random) -> None:
        if random_.random() < 0.3:
            self.lines += random_.choice([[""], ["# seed = 3"], ["  # [model]", ""]])
        self.lines.append(line + random_.choice(["", "  # = 1"]))
        self.line_of[path] = len(self.lines)


def misspelt(word: str, random_: random.Random) -> str:
    """The word after one or two edits: a letter dropped, doubled, replaced, or two swapped."""
    letters = list(word)
    for _ in range(random_.choice([1, 2])):
        at = random_.randrange(len(letters))
        edit = random_.choice(["drop", "add", "replace", "swap"])
        if edit == "drop" and len(letters) > 2:
            del letters[at]
        elif edit == "swap" and at:
            letters[at - 1], letters[at] = letters[at], letters[at - 1]
        elif edit == "add":
            letters.insert(at, random_.choice(string.ascii_lowercase))
        else:
            letters[at] = random_.choice(string.ascii_lowercase)
    return "".join(letters)


@attrs.frozen
class Case:
    """A document with one mistake: where it was written, what should have stood there."""

    kind: str
    text: str
    path: tuple[str, ...] = ()  # empty: somewhere
    line: int = 0
    meant: str = ""


def malformed(seed: int) -> Iterator[Case]:
    """At most one case for a seed; an edit that happens to be right makes none."""
    random_ = random.Random(seed)
    settings = {path: str(low + random_.randrange(1, 50)) for path, low in INTEGERS.items()} | OTHERS
    settings = {path: value for path, value in settings.items() if random_.random() < 0.8}
    kind = random_.choice(["key", "key", "type", "range", "infinite", "syntax"])
    path: tuple[str, ...] = random_.choice(sorted(set(settings) & set(INTEGERS) if kind == "range" else settings))
    written_path: tuple[str, ...] = path
    if kind == "key":
        written_path = (*path[:-1], misspelt(path[-1], random_))
        siblings = {one[-1] for one in [*INTEGERS, *OTHERS] if one[:-1] == path[:-1]}
        if written_path[-1] in siblings:
            return
        settings = {written_path if one == path else one: value for one, value in settings.items()}
    elif kind == "type":
        settings[path] = random_.choice(["[]", "[1, 2]", "1979-05-27", "07:32:00"])
    elif kind == "range":
        settings[path] = str(INTEGERS[path] - 1 - random_.randrange(3))
    elif kind == "infinite":
        settings[path] = random_.choice(["nan", "-inf", "1e400"])
    document = Document(settings, random_)
    text = document.text
    if kind == "syntax":
        tokens = [match.start() for match in re.finditer(r"[=\"'\[{]", text)]
        at = random_.choice(tokens)
        text = text[:at] + random_.choice(["", "]]", "=", '"', "\n", "\\"]) + text[at + 1 :]
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            yield Case(kind, text)
        return
    if written_path in document.line_of:
        yield Case(kind, text, written_path, document.line_of[written_path], path[-1])


def test_a_thousand_malformed_configs_are_one_line_each(tmp_path: Path) -> None:
    seen: dict[str, list[Case]] = {}
    hinted: list[bool] = []
    right: list[bool] = []
    for case in (case for seed in range(1400) for case in malformed(seed)):
        message = complaint(written(tmp_path, case.text))
        assert re.match(r"c\.toml:\d+: .*; (expected|did you mean|known)", message), (message, case)
        if case.path:
            assert message.startswith(f"c.toml:{case.line}: "), (message, case)
            assert ".".join(case.path) in message
        if case.kind == "key":
            hinted.append("did you mean" in message)
            right.append(f'did you mean "{case.meant}"?' in message)
        seen.setdefault(case.kind, []).append(case)
    assert sum(map(len, seen.values())) >= 1000
    assert min(map(len, seen.values())) >= 100, {kind: len(cases) for kind, cases in seen.items()}
    assert sum(hinted) / len(hinted) >= 0.95
    assert sum(right) / len(right) >= 0.95
