"""Functions with a backward of their own: opaque to autograd, checked where they can go wrong."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # hecate: allow PT-01 -- torch has no public door to pytrees

from hecate_core.differentiation.arguments import Mark, children_of, gather
from hecate_core.differentiation.errors import SeveredGradient
from hecate_core.differentiation.tape import thread
from hecate_core.errors import InputError, nearest

R = TypeVar("R")
Backward = Callable[..., Any]


def custom_vjp(
    vjp: Backward, *, nondiff: Sequence[str] = ()
) -> Callable[[Callable[..., tuple[R, Any]]], Callable[..., R]]:
    """Mark a function that brings its own backward; the decorated function returns only `out`.

    The function takes tensors and plain values and returns `(out, residuals)`: `out` a tensor or a
    tuple of tensors, `residuals` any pytree. `vjp(residuals, *cotangents)` returns one gradient per
    parameter in order (None for plain values and for the names in `nondiff`). Raises
    SeveredGradient in backward for a wrong count or a missing gradient, and at the call for
    tensors that hide in containers, modules or the closure. First order only (create_graph raises);
    no vmap rule.
    """

    def decorate(function: Callable[..., tuple[R, Any]]) -> Callable[..., R]:
        mark = Mark(function)
        parameters = inspect.signature(function).parameters
        for name in nondiff:
            if name not in parameters:
                raise InputError(f'{mark.name}: nondiff names "{name}"{nearest(name, parameters)}')
        node = _autograd_function(mark, vjp, list(parameters), frozenset(nondiff))

        def record(*args: Any) -> R:
            if not torch.compiler.is_compiling():
                _refuse_hidden(mark, args)
            if not (torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args)):
                return function(*args)[0]
            result: R = node.apply(*args)
            return result

        @functools.wraps(function)
        def marked(*args: Any, **kwargs: Any) -> R:
            if kwargs or len(args) < len(parameters):
                args = _in_order(mark, parameters, args, kwargs)
            tape = thread.watching
            if tape is None or torch.compiler.is_compiling():
                return record(*args)
            result: R = tape.call(mark, record, args, {})
            return result

        return marked

    return decorate


def _autograd_function(mark: Mark, vjp: Backward, names: list[str], nondiff: frozenset[str]) -> Any:
    def forward(ctx: Any, *args: Any) -> Any:
        out, residuals = mark.function(*args)
        leaves, ctx.spec = pytree.tree_flatten(residuals)
        ctx.save_for_backward(*[leaf if isinstance(leaf, Tensor) else None for leaf in leaves])
        ctx.plain = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return out

    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise SeveredGradient(
                f"{mark.name}: its vjp is first order only; mark a twin with @autodiff for create_graph"
            )
        leaves = [plain if saved is None else saved for saved, plain in zip(ctx.saved_tensors, ctx.plain, strict=True)]
        gradients = vjp(pytree.tree_unflatten(leaves, ctx.spec), *cotangents)
        gradients = tuple(gradients) if isinstance(gradients, (tuple, list)) else (gradients,)
        if len(gradients) != len(names):
            raise SeveredGradient(
                f"{mark.name}: its vjp returned {len(gradients)} gradients for {len(names)} parameters; "
                f"expected one for each of {', '.join(names)}"
            )
        for name, gradient, needed in zip(names, gradients, ctx.needs_input_grad, strict=True):
            if needed and gradient is None and name not in nondiff:
                raise SeveredGradient(
                    f"{mark.name}: its vjp returned None for `{name}`, which needs a gradient; "
                    "return one, or declare it in nondiff"
                )
        return gradients

    # Made by hand so that graph nodes and profiles carry the function's name.
    body = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(mark.name.rpartition(".")[2], (torch.autograd.Function,), body)


def _refuse_hidden(mark: Mark, args: tuple[Any, ...]) -> None:
    """Autograd looks at direct tensor arguments only: a gradient for any other tensor would be lost."""
    hidden: list[Tensor] = []
    modules: list[torch.nn.Module] = []
    for value in args:
        if not isinstance(value, Tensor) and (isinstance(value, torch.nn.Module) or children_of(value)):
            gather(value, hidden, modules)
    if mark.captured:
        for _, value in mark.captures():
            gather(value, hidden, modules)
    if not hidden and not modules:
        return
    for tensor in (*hidden, *(parameter for module in modules for parameter in module.parameters())):
        if tensor.requires_grad:
            path = next((path for path, leaf in mark.named(args, {}) if leaf is tensor), "?")
            raise SeveredGradient(
                f"{mark.name}: `{path}` needs a gradient but is no argument of its own; pass the tensor directly"
            )


def _in_order(mark: Mark, parameters: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Positional arguments as the vjp counts them: keywords and defaults put in their places."""
    ordered = list(args)
    for name in list(parameters)[len(args) :]:
        value = kwargs.pop(name, parameters[name].default)
        if value is inspect.Parameter.empty:
            raise TypeError(f'{mark.name}: argument "{name}" is missing')
        ordered.append(value)
    if kwargs:
        raise TypeError(
            f'{mark.name}: unknown argument "{next(iter(kwargs))}"{nearest(next(iter(kwargs)), parameters)}'
        )
    return tuple(ordered)
