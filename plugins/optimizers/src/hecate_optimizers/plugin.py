"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """Optimizers of the outer loop."""
    return [
        ("optimizer", "adamuon", "hecate_optimizers.adamuon:AdaMuon"),
        ("optimizer", "delta-momentum", "hecate_optimizers.delta_momentum:DeltaMomentum"),
        ("optimizer", "dgd", "hecate_optimizers.dgd:DGD"),
        ("optimizer", "m3", "hecate_optimizers.m3:M3"),
        ("optimizer", "muon", "hecate_optimizers.muon:Muon"),
    ]
