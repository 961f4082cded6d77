"""Which implementation serves a call, and in which dtype it takes its operands."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

ArgumentsT = TypeVar("ArgumentsT", bound=tuple[Any, ...])


def settled(pair: Any, like: Tensor, call: Callable[[Any], ArgumentsT]) -> tuple[Any, ArgumentsT]:
    """The pair that serves a call, and `call(pair)`: what its `forward` is then given.

    One that chooses (`auto`) looks at the arguments too, and may put another in the place of its first choice.
    """
    chosen = serving(pair, like)
    given = call(chosen)
    instead = getattr(pair, "instead", None)
    other = None if instead is None else instead(chosen, given)
    return (chosen, given) if other is None else (other, call(other))


def serving(pair: Any, like: Tensor) -> Any:
    """The pair itself, or what one that chooses by device, dtype and width (`auto`) puts in its place."""
    choose = getattr(pair, "serving", None)
    return pair if choose is None else choose(like.device, like.dtype, like.shape[-1])


def takes(pair: Any, dtype: torch.dtype) -> bool:
    """Whether the kernels of a pair declare that they read operands of a dtype narrower than float32."""
    kernels = getattr(pair, "kernels", None)
    if kernels is None or torch.promote_types(dtype, torch.float32) == dtype:
        return False
    return str(dtype).removeprefix("torch.") in kernels.dtypes


def operands(pair: Any, given: Sequence[Tensor], wide: torch.dtype) -> list[Tensor]:
    """Operands as they are where the pair takes their one dtype, else all of them in `wide`."""
    (dtype, *others) = {one.dtype for one in given}
    if not others and takes(pair, dtype):
        return list(given)
    return [one.to(wide) for one in given]


def told_apart(given: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The same tensors; while torch.compile traces, one that occurs again is a view of itself there.

    An `autograd.Function` with one tensor in two places is nothing it can trace.
    """
    if not torch.compiler.is_compiling():
        return list(given)
    apart: list[Tensor | None] = []
    for one in given:
        again = one is not None and any(one is other for other in apart)
        apart.append(one.view_as(one) if one is not None and again else one)
    return apart
