"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """The Omega rule, Atlas, and the inner step of Atlas for any rule made of knobs."""
    return [
        ("rule", "omega", "hecate_atlas.omega:omega"),
        ("rule", "atlas", "hecate_atlas.atlas:atlas"),
        ("algorithm", "newton-schulz", "hecate_atlas.newton_schulz:NewtonSchulzMomentum"),
    ]
