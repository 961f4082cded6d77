"""Core's own components, handed over like a stranger's: names and import paths, no torch."""

from hecate_core.hooks import hookimpl

COMPONENTS: list[tuple[str, str, str]] = [
    ("structure", "matrix", "hecate_core.knobs.matrix:Matrix"),
    ("structure", "mlp", "hecate_core.knobs.mlp:MLP"),
    ("bias", "dot", "hecate_core.knobs.biases:Dot"),
    ("bias", "l2", "hecate_core.knobs.biases:L2"),
    ("retention", "none", "hecate_core.knobs.retentions:NoDecay"),
    ("retention", "column", "hecate_core.knobs.channel_decay:ColumnDecay"),
    ("retention", "row", "hecate_core.knobs.channel_decay:RowDecay"),
    ("retention", "directional", "hecate_core.knobs.directional:Directional"),
    ("retention", "joined", "hecate_core.joined:Joined"),
    ("retention", "scalar", "hecate_core.knobs.retentions:ScalarDecay"),
    ("algorithm", "gd", "hecate_core.knobs.algorithms:GradientDescent"),
    ("algorithm", "dgd", "hecate_core.knobs.delta_descent:DeltaGradientDescent"),
    ("algorithm", "momentum", "hecate_core.knobs.algorithms:Momentum"),
    ("strategy", "sequential", "hecate_core.strategies.sequential:Sequential"),
    ("strategy", "chunkwise", "hecate_core.strategies.chunkwise:Chunkwise"),
    ("strategy", "frozen", "hecate_core.strategies.frozen:Frozen"),
    ("optimizer", "sgd", "hecate_core.optimizers:SGD"),
    ("optimizer", "adamw", "hecate_core.optimizers:AdamW"),
]


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """Every component that core itself provides."""
    return COMPONENTS
