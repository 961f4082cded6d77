"""A config from a file, overrides or plain values; and back to JSON, with a digest."""

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any

import attrs

from hecate_core.config.lines import Path
from hecate_core.config.overrides import apply, parse_override
from hecate_core.config.reference import Reference
from hecate_core.config.schema import Config
from hecate_core.config.source import Source, dotted, read_source
from hecate_core.config.structure import StructureError, structure, unstructure
from hecate_core.errors import CheckpointError, ConfigError


def load_config(path: str | FilePath | None = None, overrides: Iterable[str] = ()) -> Config:
    """The config in a TOML file (or a resolved one in JSON; none: all defaults), with `a.b=v` overrides.

    Raises ConfigError in one line: `file:line: key = value; expected ...`.
    """
    source = Source("defaults") if path is None else read_source(path)
    return _resolve(source, source.table(), overrides)


def recorded_config(path: str | FilePath, overrides: Iterable[str] = ()) -> Config:
    """The resolved config that a run wrote; CheckpointError where it is damaged, ConfigError for an override."""
    try:
        load_config(path)
    except ConfigError as error:
        raise CheckpointError(f"{error}; the run's own config is damaged") from None
    return load_config(path, overrides)


def make_config(table: Mapping[str, Any], overrides: Iterable[str] = (), *, place: str = "config") -> Config:
    """The config in plain values, as a notebook writes them; `place` stands for the file in messages."""
    return _resolve(Source(place), copy.deepcopy(dict(table)), overrides)


def config_plain(config: Config) -> dict[str, Any]:
    """Every setting as plain JSON values; `make_config` gives the same config back."""
    plain: dict[str, Any] = unstructure(config)
    return plain


def config_json(config: Config) -> str:
    """The resolved config as a JSON document that `load_config` reads."""
    return json.dumps(config_plain(config), indent=2, allow_nan=False) + "\n"


def config_digest(config: Config) -> str:
    """SHA-256 in hex over the canonical JSON: equal settings, equal digest."""
    text = json.dumps(config_plain(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _resolve(source: Source, table: dict[str, Any], overrides: Iterable[str]) -> Config:
    settings = [parse_override(text) for text in overrides]
    apply(table, settings)
    source.overridden += [path for path, _ in settings]
    try:
        config = structure(table)
    except StructureError as error:
        raise ConfigError(_first(source, error)) from None
    located: Config = _located(config, (), source)
    return located


def _first(source: Source, error: StructureError) -> str:
    """The problem that comes first in the file, in one line."""
    path, kind, text = min(error.problems, key=lambda problem: (source.line(problem[0]), len(problem[0])))
    name = dotted(path)
    line = f'unknown key "{name}"{text}' if kind == "key" else f"{name} = {text}"
    return " ".join(f"{source.place(path)}: {line}".split())


def _located(part: Any, path: Path, source: Source) -> Any:
    """The same settings with the place of every component written into its reference."""
    if isinstance(part, Reference):
        return attrs.evolve(part, place=f"{source.place(path)}: {dotted(path)}")
    if isinstance(part, tuple):
        return tuple(_located(one, (*path, index), source) for index, one in enumerate(part))
    if not attrs.has(type(part)):
        return part
    names = [field.name for field in attrs.fields(type(part))]
    return attrs.evolve(part, **{name: _located(getattr(part, name), (*path, name), source) for name in names})
