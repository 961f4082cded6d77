"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """The Omega rule, Atlas, the inner step of Atlas for any rule made of knobs, and what runs that step."""
    return [
        ("rule", "omega", "hecate_atlas.omega:omega"),
        ("rule", "atlas", "hecate_atlas.atlas:atlas"),
        ("algorithm", "newton-schulz", "hecate_atlas.newton_schulz:NewtonSchulzMomentum"),
        ("pair", "newton-schulz-reference", "hecate_atlas.newton_schulz:Reference"),
        ("pair", "newton-schulz-host", "hecate_atlas.kernels:NewtonSchulzOnHost"),
        ("pair", "newton-schulz-nvrtc", "hecate_atlas.kernels:NewtonSchulzOnGpu"),
    ]
