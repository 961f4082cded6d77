"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """The ways in which a block joins memory and attention."""
    return [
        ("composition", "lmm", "hecate_compositions.lmm:MemoryAlone"),
        ("composition", "mag", "hecate_compositions.mag:MemoryAsGate"),
        ("composition", "mal", "hecate_compositions.mal:MemoryAsLayer"),
        ("composition", "mac", "hecate_compositions.mac:MemoryAsContext"),
        ("composition", "mac-printed", "hecate_compositions.mac_printed:MemoryAsContextPrinted"),
        ("composition", "attention", "hecate_compositions.attention:AttentionAlone"),
    ]
