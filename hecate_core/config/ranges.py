"""Validators of the schema: what a value must be beyond its type, with what would be right."""

from collections.abc import Callable
from typing import Any

from attrs import Attribute

from hecate_core.config.values import WrongValueError

Validator = Callable[[Any, "Attribute[Any]", Any], None]


def at_least(low: float) -> Validator:
    """A number not below `low`; None passes where the field allows it."""
    return _checked(lambda value: value >= low, ">= {}", low)


def above(low: float) -> Validator:
    """A number greater than `low`; None passes where the field allows it."""
    return _checked(lambda value: value > low, "> {}", low)


def within(low: float, high: float) -> Validator:
    """A number in `[low, high]`; None passes where the field allows it."""
    return _checked(lambda value: low <= value <= high, "between {} and {}", low, high)


def each_at_least(low: int) -> Validator:
    """A table of numbers, none below `low`."""

    def check(_: Any, attribute: "Attribute[Any]", table: Any) -> None:
        for key, value in table.items():
            if value < low:
                raise WrongValueError(value, f"an integer >= {low}", (attribute.name, key))

    return check


def distinct(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
    """A list that names nothing twice."""
    if len(set(value)) != len(value):
        raise WrongValueError(list(value), "each item once", (attribute.name,))


def filled(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
    """A list or a string with something in it; None passes where the field allows it."""
    if value is not None and not value:
        raise WrongValueError(value if isinstance(value, str) else list(value), "at least one", (attribute.name,))


def _checked(holds: Callable[[Any], bool], phrase: str, *bounds: float) -> Validator:
    def check(_: Any, attribute: "Attribute[Any]", value: Any) -> None:
        if value is not None and not holds(value):
            noun = "a number" if isinstance(value, float) else "an integer"
            wanted = phrase.format(*(f"{bound:g}" for bound in bounds))
            raise WrongValueError(value, f"{noun} {wanted}", (attribute.name,))

    return check
