"""Widths that follow from others: a rule with an MLP memory derives its hidden width from the key width."""

from collections.abc import Mapping

from hecate_core.errors import InputError

Derived = Mapping[str, tuple[float, str]]
"""Widths that follow from others: `{"F": (4, "K")}` is a hidden width F of four times the key width."""


def full_widths(rule: object, given: Mapping[str, int]) -> dict[str, int]:
    """`given` and every width that the rule derives from it (`rule.widths`); a given one wins.

    Raises InputError for a derived width that is not a whole number >= 1.
    """
    derived: Derived = getattr(rule, "widths", {})
    full = dict(given)
    for letter, (factor, base) in derived.items():
        if letter in full:
            continue
        if base not in full:
            raise InputError(f"width {letter}: follows from {base}, which is missing; give {base}")
        exact = factor * full[base]
        if exact < 1 or exact != round(exact):
            raise InputError(f"width {letter} = {factor:g} x {full[base]}: expected a whole number >= 1")
        full[letter] = round(exact)
    return full
