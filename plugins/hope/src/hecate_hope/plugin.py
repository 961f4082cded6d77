"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """A memory that makes its own keys, values and rates, and the half of a HOPE block around it."""
    return [
        ("rule", "self-modifying-titans", "hecate_hope.rule:SelfModifyingTitans"),
        ("composition", "hope", "hecate_hope.block:Hope"),
    ]
