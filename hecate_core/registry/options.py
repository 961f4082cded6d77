"""Making a component: its options checked against the signature of its class before the call."""

import functools
import inspect
import typing
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from hecate_core.config.reference import Reference
from hecate_core.config.values import WrongValueError, fit
from hecate_core.errors import HecateError, InputError, PluginError, nearest
from hecate_core.registry.oneline import told

_NAMED = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def make(kind: str, factory: Callable[..., Any], reference: Reference, given: Mapping[str, Any]) -> Any:
    """Call `factory` with the options of a reference and those `given` by the caller.

    Raises InputError for an unknown option (with the nearest name), one set twice, one of the wrong
    type or one that the component refuses; PluginError when making it fails in any other way.
    """
    place = (f"{reference.place}: " if reference.place else "") + f'{kind} "{reference.name}"'
    options = _checked(place, factory, reference.options, given)
    try:
        return factory(**options)
    except InputError as error:
        raise type(error)(_placed(reference.place, str(error))) from error
    except HecateError:
        raise
    except ValueError as error:
        raise InputError(f"{place}: {told(error)}") from error
    except Exception as error:  # a stranger's constructor may raise anything
        raise PluginError(f"{place} cannot be made: {told(error)}") from error


def _placed(place: str, text: str) -> str:
    """The complaint behind its place; a key that it names itself is not said twice."""
    where, _, key = place.rpartition(": ")
    if not place or text.startswith(where or place):
        return text
    return f"{where}: {text}" if where and text.startswith(f"{key}.") else f"{place}: {text}"


def _checked(
    place: str, factory: Callable[..., Any], options: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    twice = sorted(set(options) & set(given))
    if twice:
        raise InputError(f'{place}: option "{twice[0]}" is set by the caller already; leave it out')
    parameters = _parameters(factory)
    if parameters is None:
        return {**options, **given}
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    named = {name: one for name, one in parameters.items() if one.kind in _NAMED}
    fitted: dict[str, Any] = {}
    for name, value in {**options, **given}.items():
        if name not in named and not open_ended:
            raise InputError(f'{place}: unknown option "{name}"{_known(name, named)}')
        fitted[name] = _fitted(place, factory, named[name], value) if name in options and name in named else value
    for name, one in named.items():
        if one.default is inspect.Parameter.empty and name not in fitted:
            raise InputError(f'{place}: option "{name}" has no default; expected {name} = ...')
    return fitted


def _known(name: str, named: Mapping[str, inspect.Parameter]) -> str:
    return nearest(name, named) if named else "; it takes none"


@functools.cache
def _signature(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Kept, since a class without an __init__ of its own has its signature parsed from text, every time."""
    return inspect.signature(factory).parameters


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    look = _signature if isinstance(factory, Hashable) else _signature.__wrapped__
    try:
        return look(factory)
    except (TypeError, ValueError):  # some built-in callables have no signature
        return None


def _fitted(place: str, factory: Callable[..., Any], parameter: inspect.Parameter, value: Any) -> Any:
    try:
        return fit(value, _annotation(factory, parameter))
    except WrongValueError as wrong:
        steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in wrong.path)
        raise InputError(f"{place}: {parameter.name}{steps} = {wrong}") from None


def _annotation(factory: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The evaluated annotation, or Any where it cannot be evaluated (names for type checkers only)."""
    written = parameter.annotation
    if written is inspect.Parameter.empty:
        return Any
    if not isinstance(written, str):
        return written
    function = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    holder = type("Holder", (), {"__annotations__": {"option": written}})
    try:
        return typing.get_type_hints(holder, getattr(function, "__globals__", {}))["option"]
    except Exception:  # hecate: allow FL-01 -- a stranger's annotation may be anything; nothing is checked then
        return Any
