"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """Two slot matrices that compress keys and values towards one code, and what runs their op."""
    return [
        ("rule", "trellis", "hecate_trellis.rule:Trellis"),
        ("pair", "trellis-reference", "hecate_trellis.op:Reference"),
        ("pair", "trellis-host", "hecate_trellis.kernels:TrellisOnHost"),
        ("pair", "trellis-nvrtc", "hecate_trellis.kernels:TrellisOnGpu"),
    ]
