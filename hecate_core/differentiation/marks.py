"""Three marks: record a body with autograd, sever it on purpose, cut one value."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # hecate: allow PT-01 -- torch has no public door to pytrees

from hecate_core.differentiation.arguments import Mark, gather
from hecate_core.differentiation.tape import Tape, check_versions, thread, versions_of

P = ParamSpec("P")
R = TypeVar("R")


def autodiff(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function or method as differentiated: its body is recorded by autograd.

    Under a Tape, a call from unmarked code checks every float tensor that enters and leaves and
    raises SeveredGradient or ChangedArgument; a call from marked code, and any call outside a
    Tape, is a plain call. Mark at the size of a chunk or a kernel, never per token.
    """
    mark = Mark(function)

    @functools.wraps(function)
    def marked(*args: P.args, **kwargs: P.kwargs) -> R:
        tape = thread.watching
        if tape is None or torch.compiler.is_compiling():
            return function(*args, **kwargs)
        result: R = tape.call(mark, function, args, kwargs)
        return result

    return marked


def no_autodiff(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function as severed on purpose: its results are constants, inside a Tape and outside.

    Under a Tape it accepts what unmarked code made, returns copies and counts as one cut.
    """
    mark = Mark(function)

    @functools.wraps(function)
    def severed(*args: P.args, **kwargs: P.kwargs) -> R:
        tape = thread.tape
        if torch.compiler.is_compiling():
            with torch.no_grad():
                return _map(function(*args, **kwargs), _copy)
        if tape is None:
            with torch.no_grad():
                return _map(function(*args, **kwargs), torch.Tensor.detach)
        tensors: list[Tensor] = []
        gather((args, kwargs), tensors, [])
        versions = versions_of(tensors)
        result = _as_constant(tape, function, *args, **kwargs)
        check_versions(mark, args, kwargs, tensors, versions)
        return result

    return severed


def cut(value: R) -> R:
    """The same tensor (or record, or pytree of tensors) as a constant: no gradient passes it.

    Under a Tape it is the one legal way to hand on what unmarked code made or to end a gradient;
    it copies, and the Tape counts it once per call (not in compiled code). Outside it detaches.
    """
    tape = thread.tape
    if torch.compiler.is_compiling():  # what is compiled once runs with and without a Tape
        return _map(value, _copy)
    if tape is None:
        return _map(value, torch.Tensor.detach)
    return _as_constant(tape, lambda: value)


def _as_constant(tape: Tape, function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Call without gradients under a tape; the results share no storage with anything tracked."""
    tape.cuts += 1
    watching, thread.watching = thread.watching, None
    try:
        with torch.inference_mode(False), torch.no_grad():
            return _map(function(*args, **kwargs), _copy)
    finally:
        thread.watching = watching


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _map(value: R, change: Callable[[Tensor], Tensor]) -> R:
    if isinstance(value, Tensor):
        return change(value)  # type: ignore[return-value]
    result: R = pytree.tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, value)
    return result
