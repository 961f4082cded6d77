"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """Tasks with known answers."""
    return [
        ("task", "mqar", "hecate_tasks.mqar:MultiQueryRecall"),
        ("task", "parity", "hecate_tasks.words:Parity"),
        ("task", "s3", "hecate_tasks.words:SymmetricGroup"),
        ("task", "copy", "hecate_tasks.copying:Copy"),
        ("task", "recall", "hecate_tasks.copying:RepeatedPattern"),
        ("task", "two-timescale", "hecate_tasks.timescales:TwoTimescale"),
        ("task", "niah", "hecate_tasks.niah:NeedlesInHaystack"),
        ("task", "passkey", "hecate_tasks.passkey:Passkey"),
    ]
