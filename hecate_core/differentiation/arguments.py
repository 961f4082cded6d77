"""Finds every tensor that enters or leaves a marked function, and names it in messages.

Tensors are looked for in records, pytrees, dataclasses and attrs objects, in modules (parameters
and buffers), in the owner of a bound method and in a local function's closure. Globals and
attributes of other objects are out of sight.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree  # hecate: allow PT-01 -- torch has no public door to pytrees

Children = Callable[[Any], Iterable[tuple[str, Any]]]


class Mark:
    """A marked function: its name for messages and the values it uses beside its arguments."""

    __slots__ = ("captured", "function", "name")

    def __init__(self, function: Callable[..., Any]) -> None:
        kind = type(function).__name__
        if not callable(function) or isinstance(function, (nn.Module, type)):
            raise TypeError(f"a mark on {kind}: only functions and methods can be marked; mark its forward method")
        if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            raise TypeError(f"a mark on {function.__qualname__}: its body runs after the call; mark a plain function")
        self.function = function
        home = getattr(function, "__module__", None) or "builtins"
        self.name = f"{home}.{getattr(function, '__qualname__', None) or getattr(function, '__name__', kind)}"
        owner = getattr(function, "__self__", None)
        self.captured = owner is not None or bool(getattr(function, "__closure__", None))

    def captures(self) -> Iterator[tuple[str, Any]]:
        """The owner of a bound method and the variables of the enclosing function, by name."""
        owner = getattr(self.function, "__self__", None)
        if owner is not None:
            yield "self", owner
        code = getattr(self.function, "__code__", None)
        for name, cell in zip(
            getattr(code, "co_freevars", ()), getattr(self.function, "__closure__", None) or (), strict=False
        ):
            try:
                yield name, cell.cell_contents
            except ValueError:  # the enclosing function has not assigned it yet
                continue

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Every tensor of a call with its path, such as `state.level0.memory`. For messages: slow."""
        try:
            bound = inspect.signature(self.function).bind(*args, **kwargs).arguments
        except (TypeError, ValueError):  # a builtin without a signature
            bound = {**{f"args[{place}]": value for place, value in enumerate(args)}, **kwargs}
        for name, value in (*bound.items(), *self.captures()):
            for path, tensor in _walk_named(value):
                yield name + path, tensor


def gather(value: Any, tensors: list[Tensor], modules: list[nn.Module]) -> None:
    """Append every tensor inside `value` to `tensors` and every module to `modules`."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return
    if isinstance(value, nn.Module):
        modules.append(value)
        return
    children = children_of(value)
    if children is not None:
        for _, child in children(value):
            gather(child, tensors, modules)


def children_of(value: Any) -> Children | None:
    """How to look into `value`; None for a type that holds no tensors we can see."""
    kind = type(value)
    try:
        return _CHILDREN[kind]
    except KeyError:
        return _CHILDREN.setdefault(kind, _classify(kind))


def _walk_named(value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield "", value
    elif isinstance(value, nn.Module):
        for path, tensor in (*value.named_parameters(), *value.named_buffers()):
            yield f".{path}", tensor
    else:
        children = children_of(value)
        for label, child in children(value) if children else ():
            for path, tensor in _walk_named(child):
                yield (f".{label}" if label.isidentifier() else f"[{label}]") + path, tensor


def _classify(kind: type) -> Children | None:
    if issubclass(kind, Mapping):
        return lambda value: [(str(name), child) for name, child in value.items()]
    if issubclass(kind, (list, tuple)):
        return lambda value: [(str(place), child) for place, child in enumerate(value)]
    if kind in pytree.SUPPORTED_NODES:
        flatten = pytree.SUPPORTED_NODES[kind].flatten_fn
        return lambda value: [(str(place), child) for place, child in enumerate(flatten(value)[0])]
    fields = getattr(kind, "__dataclass_fields__", None) or [
        field.name for field in getattr(kind, "__attrs_attrs__", ())
    ]
    names = tuple(fields)
    if names:
        return lambda value: [(name, getattr(value, name, None)) for name in names]
    return None


_CHILDREN: dict[type, Children | None] = {kind: None for kind in (int, float, bool, str, bytes, type(None))}
