"""`--set a.b=v`: one value of a config from the command line."""

import itertools
import re
import tomllib
from collections.abc import Iterable
from typing import Any

from hecate_core.config.lines import Path
from hecate_core.errors import ConfigError

_INDEX = re.compile(r"\[(\d+)\]")


def parse_override(text: str) -> tuple[Path, Any]:
    """The path and the value of `a.b=v`; v is TOML, and where it is not, a plain string.

    List items are numbered from 0: `model.memory.levels[1].write_period=4`. Raises ConfigError.
    """
    key, equals, raw = text.partition("=")
    shown = " ".join(text.split())
    if not equals:
        raise ConfigError(f"--set {shown}: no value; expected KEY=VALUE, as in model.width=128")
    try:
        steps = _INDEX.sub(r".\1", key)
        path = _only_path(tomllib.loads(f"{steps} = 0"))
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        name = " ".join(key.split())
        raise ConfigError(f'--set {shown}: "{name}" is no key; expected names joined by dots') from None
    return path, _value(raw)


def apply(table: dict[str, Any], overrides: Iterable[tuple[Path, Any]]) -> None:
    """Put every override into the raw table, the last one wins; missing tables are made on the way.

    A component that is a bare name becomes a table when an option of it is set.
    """
    for path, value in overrides:
        _put(table, path, value)


def _value(raw: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {raw.strip()}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return raw.strip()
    return parsed["value"] if set(parsed) == {"value"} else raw


def _only_path(parsed: dict[str, Any]) -> Path:
    path: Path = ()
    node: Any = parsed
    while isinstance(node, dict):
        if len(node) != 1:
            raise ValueError
        ((key, node),) = node.items()
        path = (*path, int(key) if key.isdecimal() else key)
    if node != 0 or type(node) is not int:
        raise ValueError
    return path


def _put(node: Any, path: Path, value: Any) -> None:
    for depth, (step, following) in enumerate(itertools.pairwise(path)):
        inner = _get(node, step, path[: depth + 1])
        if isinstance(following, int) and not isinstance(inner, list):
            _refuse_item(inner, path[: depth + 1], following)
        if isinstance(inner, str) and isinstance(following, str):
            inner = {"name": inner} if inner != "none" else {}
        elif not isinstance(inner, (dict, list)):
            inner = {}
        _set(node, step, inner)
        node = inner
    _get(node, path[-1], path)
    _set(node, path[-1], value)


def _refuse_item(inner: Any, path: Path, item: int) -> None:
    """A list that the config leaves to its default has a length that only the schema knows."""
    where = ".".join(map(str, path))
    if inner is None:
        raise ConfigError(
            f"--set {where}.{item}: the config has no list {where}; expected the whole list first, as in "
            f"--set '{where}=[{', '.join(['{}'] * min(item + 1, 8))}]'"
        )
    if not isinstance(inner, (dict, list)):
        raise ConfigError(f"--set {where}.{item}: {where} is {inner!r}, no list; expected a key without [{item}]")


def _get(node: Any, step: str | int, path: Path) -> Any:
    if isinstance(node, dict):
        return node.get(str(step))
    if isinstance(step, int) and step < len(node):
        return node[step]
    where = ".".join(map(str, path))
    raise ConfigError(f"--set {where}: the list has {len(node)} items, numbered from 0")


def _set(node: Any, step: str | int, value: Any) -> None:
    node[step if isinstance(node, list) else str(step)] = value
