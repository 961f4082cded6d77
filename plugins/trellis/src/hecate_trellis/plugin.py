"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """Two slot matrices that compress keys and values towards one code."""
    return [("rule", "trellis", "hecate_trellis.rule:Trellis")]
