"""How a method's arguments and results lie flat, read from its annotations: what a torch operator needs to know.

Known are `Tensor` (with or without a shape), `Tensor | None`, int, float, bool, str, NamedTuples and tuples of
these, and `tuple[Tensor, ...]`; anything else is refused with the name of the parameter.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Union

import attrs
import torch
from torch import Tensor

from hecate_core.errors import InputError

_PLAIN = {int: "int", float: "float", bool: "bool", str: "str"}
MAYBE, MANY = "Tensor?", "Tensor[]"


@attrs.frozen
class Leaf:
    """One flat argument: its name and its type in an operator's schema."""

    name: str
    kind: str


@attrs.frozen
class Group:
    """Several arguments in one: a tuple or a NamedTuple, put together by `make`."""

    parts: tuple["Leaf | Group", ...]
    make: Callable[[Sequence[Any]], Any]

    @property
    def is_flat(self) -> bool:
        """Whether its parts are the flat arguments themselves."""
        return all(isinstance(part, Leaf) and part.kind != MANY for part in self.parts)


Node = Leaf | Group


@attrs.frozen
class Signature:
    """The flat view of a method: `flat` and `whole` are inverse to each other."""

    parameters: tuple[Node, ...]
    result: Node

    @property
    def schema(self) -> str:
        """`(Tensor q, Tensor? erase, int chunk) -> (Tensor, Tensor[])`; results that may be None are tensors."""
        given = ", ".join(f"{leaf.kind} {leaf.name}" for node in self.parameters for leaf in leaves(node))
        made = ", ".join(leaf.kind.removesuffix("?") for leaf in leaves(self.result))
        return f"({given}) -> ({made})"


def signature_of(method: Callable[..., Any], place: str) -> Signature:
    """The signature of a bound method; InputError, which starts with `place`, for what an operator cannot take."""
    try:
        hints = typing.get_type_hints(method)
    except NameError as error:
        raise InputError(f"{place}: an annotation cannot be read ({error})") from error
    names = list(inspect.signature(method).parameters)
    for name in (*names, "return"):
        if name not in hints:
            raise InputError(f'{place}: "{name}" has no annotation; an operator\'s schema is made of them')
    chosen = _chosen(type(getattr(method, "__self__", None)))
    hints = {name: _filled(hint, chosen) for name, hint in hints.items()}
    whole = [_node(name, hints[name], place) for name in names]
    taken = [leaf.name for node in whole for leaf in leaves(node)]
    if len(set(taken)) < len(taken):  # two records with a field of one name
        whole = [_prefixed(name, node) for name, node in zip(names, whole, strict=True)]
    return Signature(tuple(whole), _node("result", hints["return"], place))


def _chosen(owner: type) -> dict[Any, Any]:
    """What a class puts in place of the type variables of its generic bases."""
    found: dict[Any, Any] = {}
    for cls in owner.__mro__:
        for base in cls.__dict__.get("__orig_bases__", ()):
            variables = getattr(typing.get_origin(base), "__parameters__", ())
            found |= {
                one: found.get(given, given) for one, given in zip(variables, typing.get_args(base), strict=False)
            }
    return found


def _filled(hint: Any, chosen: dict[Any, Any]) -> Any:
    if isinstance(hint, typing.TypeVar):
        return chosen.get(hint, hint)
    variables = getattr(hint, "__parameters__", ())
    return hint[tuple(chosen.get(one, one) for one in variables)] if variables else hint


def leaves(node: Node) -> Iterator[Leaf]:
    """The flat arguments in order."""
    if isinstance(node, Leaf):
        yield node
    else:
        for part in node.parts:
            yield from leaves(part)


Flatten = Callable[[Sequence[Any]], list[Any]]
Rebuild = Callable[[Sequence[Any]], list[Any]]


def flattener(nodes: Sequence[Node]) -> Flatten:
    """From values to their flat arguments, in one list."""
    steps = [_flatten_step(node) for node in nodes]

    def flat(values: Sequence[Any]) -> list[Any]:
        into: list[Any] = []
        for step, value in zip(steps, values, strict=True):
            step(into, value)
        return into

    return flat


def rebuilder(nodes: Sequence[Node]) -> Rebuild:
    """From flat arguments to the values."""
    steps, begin = [], 0
    for node in nodes:
        end = begin + sum(1 for _ in leaves(node))
        steps.append(_rebuild_step(node, begin, end))
        begin = end
    return lambda flat: [step(flat) for step in steps]


def _flatten_step(node: Node) -> Callable[[list[Any], Any], None]:
    if isinstance(node, Leaf):
        many = node.kind == MANY  # lambdas, because torch.compile cannot look into methods of list
        return (lambda into, value: into.append(list(value))) if many else lambda into, value: into.append(value)
    if node.is_flat:
        return lambda into, value: into.extend(value)
    inner = flattener(node.parts)
    return lambda into, value: into.extend(inner(value))


def _rebuild_step(node: Node, begin: int, end: int) -> Callable[[Sequence[Any]], Any]:
    if isinstance(node, Leaf):
        return (lambda flat: tuple(flat[begin])) if node.kind == MANY else lambda flat: flat[begin]
    make, inner = node.make, rebuilder(node.parts)
    if node.is_flat:
        return lambda flat: make(flat[begin:end])
    return lambda flat: make(inner(flat[begin:end]))


def _node(name: str, hint: Any, place: str) -> Node:
    if hint is Tensor or hint is torch.Tensor:
        return Leaf(name, "Tensor")
    if hint in _PLAIN:
        return Leaf(name, _PLAIN[hint])
    if hint is type(None):  # a parameter that one op of a family has and this one has not
        return Leaf(name, MAYBE)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType) and set(inner) == {Tensor, type(None)}:
        return Leaf(name, MAYBE)
    if origin is tuple and inner[1:] == (Ellipsis,) and inner[0] is Tensor:
        return Leaf(name, MANY)
    if origin is tuple and Ellipsis not in inner:
        return Group(tuple(_node(f"{name}_{i}", one, place) for i, one in enumerate(inner)), tuple)
    fields = getattr(hint, "_fields", None)
    if fields is not None and isinstance(hint, type) and issubclass(hint, tuple):
        hints = typing.get_type_hints(hint)
        return Group(tuple(_node(one, hints[one], place) for one in fields), hint._make)  # type: ignore[attr-defined]
    raise InputError(
        f'{place}: "{name}" is {getattr(hint, "__name__", hint)}; an operator takes Tensor, Tensor | None, '
        "tuple[Tensor, ...], int, float, bool, str and NamedTuples or tuples of these"
    )


def _prefixed(name: str, node: Node) -> Node:
    """Leaves of a record named after the parameter as well; a leaf that is the parameter keeps its name."""
    if isinstance(node, Leaf):
        return node if node.name == name or node.name.startswith(f"{name}_") else Leaf(f"{name}_{node.name}", node.kind)
    return attrs.evolve(node, parts=tuple(_prefixed(name, part) for part in node.parts))
