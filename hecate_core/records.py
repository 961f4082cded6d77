"""Immutable named records of tensors: `Params`, `State` and `Tokens`, three lifetimes in one shape.

A record is a mapping with attribute access whose leaves are tensors or further records. It is a
pytree node, so `torch.export`, `torch.func` and `tree_map` walk through it.

* `Params` - what the outer loop learns (initial memory, norms, thresholds);
* `State`  - what must survive a call; every tensor has the batch first; `position` counts tokens
  and is a plain integer beside the tensors, so reading it never waits for a device;
* `Tokens` - what varies per token: declared inputs and the gates as used.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # hecate: allow PT-01 -- torch has no public door to pytrees

from hecate_core.errors import InputError

# Attribute access would hide these methods, and `nn.ParameterDict` refuses some of them.
RESERVED = frozenset("keys values items get pop replace map rows flat position without to of at put".split())


class Record(Mapping[str, Any]):
    """An immutable mapping of names to tensors or records; `record.name` reads like `record["name"]`.

    Raises InputError for a reserved or non-identifier name and for a leaf that is neither.
    """

    __slots__ = ("_leaves",)

    def __init__(self, **leaves: Any) -> None:
        for name, leaf in leaves.items():
            if not name.isidentifier() or name in RESERVED or name.startswith("_"):
                raise InputError(f'{type(self).__name__}: "{name}" cannot name a tensor; choose another name')
            if not isinstance(leaf, (Tensor, Record)) and not _is_traced(leaf):
                raise InputError(
                    f"{type(self).__name__}.{name}: {type(leaf).__name__} is not a tensor; "
                    "a record holds tensors and records only"
                )
        object.__setattr__(self, "_leaves", leaves)

    def __getitem__(self, name: str) -> Any:
        return self._leaves[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._leaves[name]
        except KeyError:
            have = ", ".join(self._leaves) or "nothing"
            raise AttributeError(f'{type(self).__name__} has no "{name}"; it has {have}') from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; use .replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; use .without({name!r})")

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        inside = ", ".join(
            f"{name}={tuple(leaf.shape)}" if isinstance(leaf, Tensor) else f"{name}={leaf!r}"
            for name, leaf in self._leaves.items()
        )
        return f"{type(self).__name__}({inside})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), dict(self._leaves), self._static())

    def _static(self) -> dict[str, Any]:
        """Plain values that travel beside the tensors."""
        return {}

    @classmethod
    def _make(cls, leaves: Mapping[str, Any], static: Mapping[str, Any]) -> Self:
        """Build without checks: leaves come from another record or from a pytree walk."""
        new = object.__new__(cls)
        object.__setattr__(new, "_leaves", dict(leaves))
        for name, value in static.items():
            object.__setattr__(new, name, value)
        return new

    def replace(self, **leaves: Any) -> Self:
        """A new record with these leaves replaced or added; everything else is shared."""
        return type(self)(**{**self._leaves, **self._static(), **leaves})

    @classmethod
    def of(cls, leaves: Mapping[str, Any]) -> Self:
        """A record of these leaves; the same as `cls(**leaves)` for a mapping at hand."""
        return cls(**leaves)

    def at(self, path: str) -> Any:
        """The leaf at a dotted path: `state.at("memory.matrix")`."""
        head, _, tail = path.partition(".")
        return self[head].at(tail) if tail else self[head]

    def put(self, path: str, leaf: Any) -> Self:
        """A new record with the leaf at a dotted path replaced or added."""
        head, _, tail = path.partition(".")
        return self.replace(**{head: self[head].put(tail, leaf) if tail else leaf})

    def without(self, *names: str) -> Self:
        """A new record that lacks the named leaves."""
        left = {name: leaf for name, leaf in self._leaves.items() if name not in names}
        return self._make(left, self._static())

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A new record with `function` applied to every tensor, nested ones included."""
        return self._make(
            {
                name: leaf.map(function) if isinstance(leaf, Record) else function(leaf)
                for name, leaf in self._leaves.items()
            },
            self._static(),
        )

    def flat(self, prefix: str = "") -> dict[str, Tensor]:
        """All tensors by dotted name, in order: `{"level0.memory": ...}`."""
        found: dict[str, Tensor] = {}
        for name, leaf in self._leaves.items():
            if isinstance(leaf, Record):
                found.update(leaf.flat(f"{prefix}{name}."))
            else:
                found[prefix + name] = leaf
        return found


class Params(Record):
    """What the outer loop learns; no batch axis."""

    __slots__ = ()


class Tokens(Record):
    """Per-token tensors: inputs `[B, H, T, width]`, gates `[B, H, T]` or `[B, H, T, width]`."""

    __slots__ = ()


class State(Record):
    """What survives a call: tensors with the batch first, and `position`, the tokens seen so far."""

    __slots__ = ("position",)
    position: int

    def __init__(self, *, position: int = 0, **leaves: Any) -> None:
        super().__init__(**leaves)
        object.__setattr__(self, "position", position)

    def _static(self) -> dict[str, Any]:
        return {"position": self.position}

    def rows(self, index: Tensor) -> "State":
        """The state of some batch rows: `index` is a bool mask or integer index over B."""
        return self.map(lambda tensor: tensor[index])

    def to(self, *args: Any, **kwargs: Any) -> "State":
        """Every tensor moved or cast as by `Tensor.to`."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))


def where_rows(mask: Tensor, chosen: State, other: State) -> State:
    """Row b of `chosen` where `mask[b]` (bool `[B]`), of `other` elsewhere; same names and shapes."""

    def pick(one: Tensor, two: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (one.dim() - 1)), one, two)

    return State._make(
        {
            name: where_rows(mask, leaf, other[name]) if isinstance(leaf, State) else pick(leaf, other[name])
            for name, leaf in chosen.items()
        },
        chosen._static(),
    )


def unflat(tensors: Mapping[str, Tensor], positions: Mapping[str, int] | None = None) -> State:
    """The inverse of `State.flat`: nested states from dotted names; `positions` by dotted prefix ("" = root).

    A state without tensors has no dotted name: it comes back where `positions` names it.
    """
    positions = positions or {}

    def build(level: Mapping[str, Tensor], path: str) -> State:
        inside = (place.removeprefix(path).split(".")[0] for place in positions if place.startswith(path))
        groups: dict[str, Any] = {head: {} for head in inside if head}
        for name, tensor in level.items():
            head, dot, tail = name.partition(".")
            if dot:
                groups.setdefault(head, {})[tail] = tensor
            else:
                groups[head] = tensor
        leaves = {
            head: build(part, f"{path}{head}.") if isinstance(part, dict) else part for head, part in groups.items()
        }
        return State(position=positions.get(path.rstrip("."), 0), **leaves)

    return build(tensors, "")


def positions_of(state: State, prefix: str = "") -> dict[str, int]:
    """Every position in a nested state by dotted prefix ("" is the state itself)."""
    found = {prefix: state.position}
    for name, leaf in state.items():
        if isinstance(leaf, State):
            found.update(positions_of(leaf, f"{prefix}.{name}" if prefix else name))
    return found


def _is_traced(leaf: object) -> bool:
    """Pytree walks rebuild records with placeholders (None, object(), specs); those are not checked."""
    return leaf is None or type(leaf) is object


def _rebuild(cls: type[Record], leaves: dict[str, Any], static: dict[str, Any]) -> Record:
    return cls._make(leaves, static)


def _register(cls: type[Record]) -> None:
    def flatten(record: Record) -> tuple[list[Any], Any]:
        return list(record._leaves.values()), (tuple(record._leaves), tuple(record._static().items()))

    def unflatten(leaves: Any, context: Any) -> Record:
        names, static = context
        return cls._make(dict(zip(names, leaves, strict=True)), dict(static))

    def flatten_with_keys(record: Record) -> tuple[list[Any], Any]:
        keyed: list[Any] = [(pytree.MappingKey(name), leaf) for name, leaf in record._leaves.items()]
        return keyed, flatten(record)[1]

    pytree.register_pytree_node(
        cls,
        flatten,
        unflatten,
        serialized_type_name=f"hecate_core.records.{cls.__name__}",
        to_dumpable_context=lambda context: [list(context[0]), [list(pair) for pair in context[1]]],
        from_dumpable_context=lambda dumped: (tuple(dumped[0]), tuple((key, value) for key, value in dumped[1])),
        flatten_with_keys_fn=flatten_with_keys,
    )


for _cls in (Params, Tokens, State):
    _register(_cls)
