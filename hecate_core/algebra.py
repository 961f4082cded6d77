"""The four products that rules are written in; a memory maps keys (columns) to values (rows)."""

from hecate_core.shapes import Float, Tensor


def times(memory: Float[Tensor, "... V K"], key: Float[Tensor, "... K"]) -> Float[Tensor, "... V"]:
    """M k: what the memory answers to a key."""
    return (memory @ key.unsqueeze(-1)).squeeze(-1)


def times_transposed(memory: Float[Tensor, "... V K"], value: Float[Tensor, "... V"]) -> Float[Tensor, "... K"]:
    """M^T v."""
    return (value.unsqueeze(-2) @ memory).squeeze(-2)


def outer(value: Float[Tensor, "... V"], key: Float[Tensor, "... K"]) -> Float[Tensor, "... V K"]:
    """v k^T: a rank-one update."""
    return value.unsqueeze(-1) * key.unsqueeze(-2)


def scaled(gate: Float[Tensor, "..."], tensor: Float[Tensor, "... A"]) -> Float[Tensor, "... A"]:
    """A gate times everything behind the axes that it has: `[B, H]` times `[B, H, V, K]`."""
    return gate.view(*gate.shape, *[1] * (tensor.dim() - gate.dim())) * tensor
