"""Optimizers that move matrices as matrices, and everything else by AdamW."""

from typing import Any

from hecate_core.api import AdamW, InputError, NamedParameters, Tensor, nearest

# Parts of parameter names: tables, heads, filters and stacks of vectors are no maps from vectors to vectors.
APART = ("embedding", "head", "conv", "gates", "persistent", "params")


class MatrixOptimizer(AdamW):
    """AdamW, but a parameter of two or more axes moves by `move_matrix` over its last two.

    Names in `adamw` are parts of dotted parameter names that stay with AdamW, with `betas` and `eps`. A name that
    no parameter has is refused, those of the default excepted. Raises InputError.
    """

    matrix_slots: tuple[str, ...] = ()

    def __init__(self, named_parameters: NamedParameters, *, adamw: tuple[str, ...], **options: Any) -> None:
        self.apart = frozenset(adamw)
        super().__init__(named_parameters, **options)
        parts = {part for name in self.parameters for part in name.split(".")}
        for name in sorted(self.apart - parts - set(APART)):
            raise InputError(f'optimizer.adamw: no parameter has "{name}" in its name{nearest(name, parts)}')

    def is_matrix(self, name: str) -> bool:
        """Whether the parameter moves as a matrix."""
        return self.parameters[name].dim() >= 2 and self.apart.isdisjoint(name.split("."))

    def slots_of(self, name: str) -> tuple[str, ...]:
        """AdamW's moments, or the matrix rule's own."""
        return self.matrix_slots if self.is_matrix(name) else self.slots

    def move(self, name: str, work: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        """One update by the rule that the parameter falls under."""
        if self.is_matrix(name):
            self.move_matrix(name, work, grad, rate, decay)
        else:
            super().move(name, work, grad, rate, decay)

    def move_matrix(self, name: str, work: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        """One update of a matrix, or of a stack of them, in place."""
        raise NotImplementedError
