"""What the differentiation wall raises."""

from hecate_core.errors import HecateError


class SeveredGradient(HecateError):  # noqa: N818 (says what happened)
    """A gradient would be lost in silence; the message names the marked function and the tensor."""


class ChangedArgument(HecateError):  # noqa: N818
    """A marked function changed one of its arguments in place, which falsifies gradients."""
