"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """Local memories that restart beside one coarse global memory."""
    return [("strategy", "tnt", "hecate_tnt.strategy:TNT")]
