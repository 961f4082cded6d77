"""Strict typing of plain values: TOML, JSON and overrides against annotations, nothing is coerced.

An integer may stand where a number is expected, and the string "none" where nothing is allowed;
everything else must have the annotated type, because a silent conversion hides a mistake.
"""

import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union

SCALARS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a string",
    types.NoneType: '"none"',
}


LARGEST = sys.float_info.max  # NaN, infinity and integers that no float can hold are not below it


class WrongValueError(Exception):
    """A value that does not fit; `path` leads to it from where the check began, `expected` is prose."""

    def __init__(self, value: object, expected: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(f"{shown(value)}; expected {expected}")
        self.value, self.expected, self.path = value, expected, path

    def under(self, *steps: str | int) -> "WrongValueError":
        """The same complaint seen from further out."""
        return WrongValueError(self.value, self.expected, (*steps, *self.path))


def shown(value: object) -> str:
    """A value as TOML would write it, cut at 60 characters."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return '"none"'
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def expected(annotation: Any) -> str:
    """What an annotation accepts, as the end of "expected ..."."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and annotation in SCALARS:
        return SCALARS[annotation]
    if origin is Literal:
        return "one of " + ", ".join(shown(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(expected(member) for member in arguments)
    if _is_sequence(origin):
        return f"a list, each item {expected(arguments[0])}" if arguments else "a list"
    if _is_mapping(origin) or _is_mapping(annotation):
        return "a table"
    return "a list" if _is_sequence(annotation) else f"a {getattr(annotation, '__name__', annotation)}"


def fit(value: Any, annotation: Any) -> Any:
    """`value` as `annotation` wants it (an int becomes a float, a list a tuple), or WrongValueError.

    Annotations that plain values cannot have (a tensor, a callable, Any) accept everything.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return fit(value, arguments[0])
    if isinstance(annotation, type) and annotation in SCALARS:
        return _scalar(value, annotation)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise WrongValueError(value, expected(annotation))
    if origin in (Union, types.UnionType):
        return _union(value, annotation, arguments)
    if _is_sequence(origin) or _is_sequence(annotation):
        return _sequence(value, annotation, origin or annotation, arguments)
    if _is_mapping(origin) or _is_mapping(annotation):
        return _mapping(value, annotation, arguments)
    return value


def plain(value: Any) -> Any:
    """The value itself if JSON can hold it (finite numbers, no dates), or WrongValueError."""
    if isinstance(value, (list, tuple)):
        return [_step(index, one, None) for index, one in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: _step(key, one, None) for key, one in value.items()}
    for kind in SCALARS:
        if type(value) is kind and kind is not types.NoneType:
            return _scalar(value, kind)
    if value is None:
        return None
    raise WrongValueError(value, "a string, a finite number, true, false, a list or a table")


def _scalar(value: Any, annotation: type) -> Any:
    if annotation is types.NoneType and value == "none":
        return None
    if annotation is float and type(value) in (int, float) and abs(value) <= LARGEST:
        return float(value)
    if annotation is int and type(value) is int and -(2**63) <= value < 2**63:
        return value
    if annotation not in (int, float) and type(value) is annotation:
        return value
    raise WrongValueError(value, SCALARS[annotation])


def _union(value: Any, annotation: Any, members: tuple[Any, ...]) -> Any:
    if types.NoneType in members and (value is None or value == "none"):
        return None
    deepest: WrongValueError | None = None
    for member in members:
        try:
            return fit(value, member)
        except WrongValueError as wrong:
            if deepest is None or len(wrong.path) > len(deepest.path):
                deepest = wrong
    if deepest is not None and deepest.path:
        raise deepest
    raise WrongValueError(value, expected(annotation))


def _sequence(value: Any, annotation: Any, container: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, (list, tuple)):
        raise WrongValueError(value, expected(annotation))
    is_tuple = isinstance(container, type) and issubclass(container, tuple)
    items: list[Any] = list(arguments)
    if is_tuple and items and items[-1] is not ...:
        if len(items) != len(value):
            raise WrongValueError(value, f"{len(items)} items")
    else:
        items = [arguments[0] if arguments else Any] * len(value)
    fitted = [_step(index, one, item) for index, (one, item) in enumerate(zip(value, items, strict=True))]
    return tuple(fitted) if is_tuple else fitted


def _mapping(value: Any, annotation: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        raise WrongValueError(value, expected(annotation))
    item = arguments[1] if len(arguments) == 2 else Any
    return {key: _step(key, one, item) for key, one in value.items()}


def _step(key: str | int, value: Any, annotation: Any) -> Any:
    """One item, checked as `fit` or (without an annotation) as `plain` does, its key in the complaint."""
    try:
        return plain(value) if annotation is None else fit(value, annotation)
    except WrongValueError as wrong:
        raise wrong.under(key) from None


def _is_sequence(annotation: Any) -> bool:
    return any(annotation is one for one in (list, tuple, Sequence))


def _is_mapping(annotation: Any) -> bool:
    return annotation is dict or annotation is Mapping
