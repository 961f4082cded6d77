"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """Titans with a matrix memory and with an MLP."""
    return [
        ("rule", "titans", "hecate_titans.titans:titans"),
        ("rule", "titans-deep", "hecate_titans.deep:titans_deep"),
    ]
