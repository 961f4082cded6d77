"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """The orthogonal state recurrence over unit slots."""
    return [("rule", "lattice", "hecate_lattice.rule:Lattice")]
