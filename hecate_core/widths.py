"""Widths that follow from others: a rule with an MLP memory derives its hidden width from the key width."""

from collections.abc import Callable, Mapping

from hecate_core.errors import InputError

Derived = Mapping[str, tuple[float, str] | Callable[[Mapping[str, int]], int]]
"""Widths that follow from others: `{"F": (4, "K")}` is a hidden width F of four times the key width.

A function of the widths stands for what is no multiple: the number of products of two key entries, a constant.
"""


def full_widths(rule: object, given: Mapping[str, int]) -> dict[str, int]:
    """`given` and every width that the rule derives from it (`rule.widths`); a given one wins.

    Raises InputError for a derived width that is not a whole number >= 1.
    """
    derived: Derived = getattr(rule, "widths", {})
    full = dict(given)
    for letter, source in derived.items():
        if letter in full:
            continue
        if callable(source):
            full[letter] = source(full)
            continue
        factor, base = source
        if base not in full:
            raise InputError(f"width {letter}: follows from {base}, which is missing; give {base}")
        exact = factor * full[base]
        if exact < 1 or exact != round(exact):
            raise InputError(f"width {letter} = {factor:g} x {full[base]}: expected a whole number >= 1")
        full[letter] = round(exact)
    return full
