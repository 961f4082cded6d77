"""Plain tables into the schema's classes and back, by cattrs; every complaint with its path."""

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from hecate_core.config.lines import Path
from hecate_core.config.reference import Reference, written_by_knobs
from hecate_core.config.schema import ChainLevel, Config, Level
from hecate_core.config.values import SCALARS, WrongValueError, expected, fit, plain
from hecate_core.errors import InputError, nearest

Problem = tuple[Path, str, str]
"""Where, what kind ("value" or "key"), and the text about it."""


class StructureError(Exception):
    """A table that does not fit the schema, with everything that is wrong about it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = problems


def structure(table: Mapping[str, Any]) -> Config:
    """A config from plain values; StructureError names every key that does not fit."""
    try:
        return _CONVERTER.structure(table, Config)
    except (BaseValidationError, WrongValueError) as error:
        raise StructureError(list(_problems(error, ()))) from error


def unstructure(config: Any) -> Any:
    """Any part of a config as plain JSON values."""
    return _CONVERTER.unstructure(config)


def _problems(error: BaseException, path: Path) -> Iterator[Problem]:
    """What cattrs collected in nested groups, flat; its notes lead the way."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            path = (*path, note.name)
        elif isinstance(note, IterableValidationNote):
            path = (*path, note.index)
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _problems(inner, path)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in attrs.fields(error.cl)]
        for key in sorted(error.extra_fields, key=str):
            yield (*path, key), "key", nearest(str(key), known)
    elif isinstance(error, WrongValueError):
        yield (*path, *error.path), "value", str(error)
    else:
        yield path, "value", str(error)


def _make_converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook_func(lambda kind: not attrs.has(kind), fit)
    for scalar in SCALARS:  # cattrs looks for these by class, before any predicate
        converter.register_structure_hook(scalar, fit)
    converter.register_structure_hook_factory(attrs.has, lambda kind: _table_hook(kind, converter))
    converter.register_structure_hook_func(
        lambda kind: _row_class(kind) is not None, lambda value, kind: _rows(value, kind, converter)
    )
    converter.register_structure_hook_func(
        lambda kind: _optional_class(kind) is not None, lambda value, kind: _optional(value, kind, converter)
    )
    converter.register_structure_hook(Reference, lambda value, _: _reference(value))
    converter.register_unstructure_hook(Reference, Reference.plain)
    return converter


def _table_hook(kind: Any, converter: Converter) -> Any:
    """Structure a class from a mapping only; a component table without a name gets the default's."""
    inner = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True)
    named = {field.name: field.default.name for field in attrs.fields(kind) if isinstance(field.default, Reference)}

    def hook(value: Any, _: Any) -> Any:
        if kind in (Level, ChainLevel) and type(value) is int:
            value = {"write_period": value, "update_period": value}
        if not isinstance(value, Mapping):
            raise WrongValueError(value, "a table")
        return inner({key: _named(one, named.get(key)) for key, one in value.items()}, kind)

    return hook


def _named(value: Any, default: str | None) -> Any:
    """A component's table with the default's name where it has none and is not written by its knobs."""
    if default is None or not isinstance(value, Mapping) or written_by_knobs(value):
        return value
    return {"name": default, **value}


def _row_class(kind: Any) -> Any:
    """The class in `tuple[Class, ...]`, or None."""
    arguments = typing.get_args(kind)
    is_rows = typing.get_origin(kind) is tuple and len(arguments) == 2 and attrs.has(arguments[0])
    return arguments[0] if is_rows else None


def _rows(value: Any, kind: Any, converter: Converter) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise WrongValueError(value, "a list of tables")
    row_class, rows, wrong = _row_class(kind), [], []
    for index, one in enumerate(value):
        try:
            rows.append(converter.structure(one, row_class))
        except (BaseValidationError, WrongValueError) as error:
            error.add_note(IterableValidationNote("", index, row_class))
            wrong.append(error)
    if wrong:
        raise IterableValidationError("rows", wrong, kind)
    return tuple(rows)


def _optional_class(kind: Any) -> Any:
    """The class in `Class | None`, or None."""
    members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else ()
    classes = [member for member in members if member is not types.NoneType]
    return classes[0] if len(classes) == 1 and len(members) == 2 and attrs.has(classes[0]) else None


def _optional(value: Any, kind: Any, converter: Converter) -> Any:
    if value is None or value == "none":
        return None
    if _optional_class(kind) is Reference:
        return _reference(value)
    if not isinstance(value, Mapping):
        raise WrongValueError(value, f"a table or {expected(types.NoneType)}")
    return converter.structure(value, _optional_class(kind))


def _reference(value: Any) -> Reference:
    if not isinstance(value, (str, Mapping, Reference)) or value == "":
        raise WrongValueError(value, "the name of a component or a table with name = ...")
    try:
        reference = Reference.of(value)
    except InputError:
        name = value.get("name") if isinstance(value, Mapping) else value
        raise WrongValueError(name, "the name of a component", ("name",)) from None
    return attrs.evolve(reference, options=plain(reference.options))


_CONVERTER = _make_converter()
