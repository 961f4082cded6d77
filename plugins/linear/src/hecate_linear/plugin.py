"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """Matrix memories that take one step per token."""
    return [
        ("rule", "linear", "hecate_linear.linear:linear"),
        ("rule", "hebbian", "hecate_linear.hebbian:hebbian"),
        ("rule", "delta", "hecate_linear.delta:delta"),
        ("rule", "kda", "hecate_linear.kda:kda"),
        ("rule", "dgd", "hecate_linear.dgd:dgd"),
    ]
