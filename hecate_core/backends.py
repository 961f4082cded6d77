"""Which implementation of an op runs: asked for by name, or `auto`; never swapped in silence."""

from typing import Any

from hecate_core.errors import InputError, nearest
from hecate_core.ops.affine import REFERENCE as AFFINE
from hecate_core.ops.affine_column import REFERENCE as AFFINE_COLUMN
from hecate_core.ops.decayed_linear import REFERENCE as DECAYED_LINEAR
from hecate_core.registry import registry

REFERENCES: dict[str, Any] = {one.op: one for one in (AFFINE, AFFINE_COLUMN, DECAYED_LINEAR)}


def pair_for(op: str, backend: str = "auto") -> Any:
    """The implementation of an op on a backend; "auto" and "reference" are plain torch on any device.

    Raises InputError with what is registered for the op where the backend has no implementation.
    """
    if backend in ("auto", "reference"):
        return REFERENCES[op]
    offered: dict[str, Any] = {}
    for name in registry().names("pair"):
        pair = registry().create("pair", name)
        if pair.op == op:
            offered[pair.backend] = pair
    if backend not in offered:
        raise InputError(
            f'backend "{backend}" has no kernel pair for op "{op}"{nearest(backend, {"reference", *offered})}'
        )
    return offered[backend]
