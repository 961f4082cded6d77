"""Marked functions that the tests of the wall call."""

from torch import Tensor

from hecate_core.differentiation import autodiff, no_autodiff


@autodiff
def square(x: Tensor, w: Tensor) -> Tensor:
    return (x * w) ** 2


@autodiff
def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


@autodiff
def total(x: Tensor) -> Tensor:
    return x.sum()


@no_autodiff
def probe(x: Tensor) -> Tensor:
    return x.mean()
