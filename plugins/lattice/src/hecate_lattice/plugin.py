"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """The orthogonal state recurrence over unit slots, its structure and retention as knobs, and what runs its op."""
    return [
        ("rule", "lattice", "hecate_lattice.rule:Lattice"),
        ("structure", "slots", "hecate_lattice.sphere:Slots"),
        ("retention", "sphere", "hecate_lattice.sphere:Sphere"),
        ("pair", "lattice-reference", "hecate_lattice.op:Reference"),
        ("pair", "lattice-host", "hecate_lattice.kernels:LatticeOnHost"),
        ("pair", "lattice-nvrtc", "hecate_lattice.kernels:LatticeOnGpu"),
    ]
