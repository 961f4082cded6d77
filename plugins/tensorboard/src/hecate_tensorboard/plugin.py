"""What this distribution registers."""

from hecate_core.hooks import hookimpl


@hookimpl
def hecate_components() -> list[tuple[str, str, str]]:
    """A sink that writes event files."""
    return [("sink", "tensorboard", "hecate_tensorboard.sink:TensorBoard")]
