"""The kernel pairs of the ops that rules share, as components."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """One component per op and backend; each is one `.cu` with a forward and a backward."""
    return [
        ("pair", "affine-host", "hecate_kernels.affine:AffineOnHost"),
        ("pair", "affine-nvrtc", "hecate_kernels.affine:AffineOnGpu"),
        ("pair", "affine-column-host", "hecate_kernels.affine_column:ColumnOnHost"),
        ("pair", "affine-column-nvrtc", "hecate_kernels.affine_column:ColumnOnGpu"),
        ("pair", "decayed-linear-host", "hecate_kernels.decayed_linear:DecayedOnHost"),
        ("pair", "decayed-linear-nvrtc", "hecate_kernels.decayed_linear:DecayedOnGpu"),
    ]
