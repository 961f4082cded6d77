"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """Three rules, five losses, seven retentions, and what runs the op of two of their links."""
    return [
        ("rule", "moneta", "hecate_miras.moneta:moneta"),
        ("rule", "yaad", "hecate_miras.yaad:yaad"),
        ("rule", "memora", "hecate_miras.memora:memora"),
        ("bias", "l1", "hecate_miras.l1:SmoothL1"),
        ("bias", "lp", "hecate_miras.lp:Lp"),
        ("bias", "huber", "hecate_miras.huber:Huber"),
        ("bias", "robust", "hecate_miras.robust:RobustL2"),
        ("bias", "kl", "hecate_miras.kl_loss:KLLoss"),
        ("retention", "kl", "hecate_miras.simplex:Simplex"),
        ("retention", "f-divergence", "hecate_miras.fdivergence:FDivergence"),
        ("retention", "bregman", "hecate_miras.bregman:Bregman"),
        ("retention", "sigmoid", "hecate_miras.bregman:bounded"),
        ("retention", "elastic-proximal", "hecate_miras.elastic:ElasticProximal"),
        ("retention", "elastic-ftrl", "hecate_miras.elastic:ElasticFTRL"),
        ("retention", "lq", "hecate_miras.lq:Lq"),
        ("pair", "linked-linear-reference", "hecate_miras.linked_linear:Reference"),
        ("pair", "linked-linear-host", "hecate_miras.kernels:LinkedOnHost"),
        ("pair", "linked-linear-nvrtc", "hecate_miras.kernels:LinkedOnGpu"),
    ]
