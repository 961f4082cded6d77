"""Kernel pairs as torch operators: opaque to export and compile, with a fake that follows from the pair itself.

A pair's `forward` and `backward` become `hecate::<op>_<backend>_fwd` and `_bwd`; their schemas are read from the
annotations, and their fakes are the same methods with every launch left out, so that shapes and strides are those
that the kernels fill. An `autograd.Function` stands outside, in the op. A stranger's pair gets all of it.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hecate_core.errors import InputError
from hecate_core.ops.signature import MANY, MAYBE, flattener, leaves, rebuilder, signature_of

_LIBRARY = torch.library.Library("hecate", "FRAGMENT")
_defined: dict[str, "Operator"] = {}
_state = threading.local()


def is_shaping() -> bool:
    """Whether only shapes are asked for: a launcher then returns at once, the outputs are allocated already."""
    return getattr(_state, "shaping", False)


@contextmanager
def shaping() -> Iterator[None]:
    """A block in which launchers run nothing."""
    before = is_shaping()
    _state.shaping = True
    try:
        yield
    finally:
        _state.shaping = before


class Bare(NamedTuple):
    """A tensor without its numbers."""

    shape: torch.Size
    dtype: torch.dtype


def bared(given: Any) -> Any:
    """Arguments of a pair with every tensor bare, in tuples and named tuples too: what its refusal depends on."""
    if isinstance(given, Tensor):
        return Bare(given.shape, given.dtype)
    if isinstance(given, tuple):
        parts = [bared(one) for one in given]
        return given._make(parts) if hasattr(given, "_make") else tuple(parts)
    return given


@lru_cache(maxsize=4096)
def refusal(pair: Any, call: tuple[Any, ...]) -> str | None:
    """Why a pair's `forward` does not take such arguments (`bared`), in its own words, or None; runs nothing."""
    with shaping():
        try:
            pair.forward(*_on_meta(call))
        except InputError as error:
            return str(error)
    return None


def _on_meta(given: Any) -> Any:
    if isinstance(given, Bare):
        return torch.empty(given.shape, dtype=given.dtype, device="meta")
    if isinstance(given, tuple):
        parts = [_on_meta(one) for one in given]
        return given._make(parts) if hasattr(given, "_make") else tuple(parts)
    return given


class Operator:
    """A pair behind its two torch operators; serves wherever the pair itself does."""

    def __init__(self, pair: Any) -> None:
        self.pair = pair
        self.op: str = pair.op
        self.backend: str = pair.backend
        self.name = re.sub(r"\W", "_", f"{pair.op}_{pair.backend}")
        self.forward = _operator(f"{self.name}_fwd", pair.forward)
        self.backward = _operator(f"{self.name}_bwd", pair.backward)

    @property
    def kernels(self) -> Any:
        """What the pair declares: dtypes, head sizes, limits; None for one without kernels."""
        return getattr(self.pair, "kernels", None)

    @property
    def longest(self) -> int | None:
        """What the pair says of the length of one call; None for one that takes any."""
        return getattr(self.pair, "longest", None)


def operator_of(pair: Any) -> Operator:
    """The pair behind torch operators, defined once per op, backend and class.

    Raises InputError for annotations that an operator cannot have, and for a second pair of one op and backend.
    """
    name = f"{pair.op}_{pair.backend}"
    known = _defined.get(name)
    if known is None:
        known = _defined[name] = Operator(pair)  # hecate: allow FL-06 -- torch's own table of operators is as global
    elif type(known.pair) is not type(pair):
        first, second = (f"{type(one).__module__}.{type(one).__qualname__}" for one in (known.pair, pair))
        raise InputError(
            f'op "{pair.op}" on backend "{pair.backend}": two pairs are offered, {first} and {second}; '
            "name another backend in one of them, or disable its plugin"
        )
    return known


def _operator(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method through a torch operator of that name.

    An operator has no optional results and may not hand back what it was given. A result that is None is an empty
    bool tensor `[0]`; one that is the i-th argument itself is an empty bool tensor `[0, i + 1]`, put back outside.
    """
    place = f"{type(getattr(method, '__self__', method)).__name__}.{method.__name__}"
    signature = signature_of(method, place)
    results = list(leaves(signature.result))
    many = [leaf.kind == MANY for leaf in results]
    maybe = [leaf.kind == MAYBE for leaf in results]
    flat_of, given_of = flattener(signature.parameters), rebuilder(signature.parameters)
    made_of, result_of = flattener([signature.result]), rebuilder([signature.result])

    def run(*flat: Any) -> Any:
        made = made_of((method(*given_of(flat)),))
        fresh = _Fresh(_tensors(flat), made[0].device)
        marked = [
            [fresh(each) for each in one] if is_list else fresh(one) for one, is_list in zip(made, many, strict=True)
        ]
        return marked[0] if len(marked) == 1 else tuple(marked)

    def fake(*flat: Any) -> Any:
        with shaping():
            results = run(*flat)
        storages = {_memory(one) for one in _tensors(flat)}
        for one in _tensors(results if isinstance(results, tuple) else (results,)):
            if _memory(one) in storages:
                raise InputError(f"{place}: a result is a view of an argument; return the argument itself or a copy")
        return results

    _LIBRARY.define(name + signature.schema)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"hecate::{name}", fake, lib=_LIBRARY)
    handle = getattr(torch.ops.hecate, name).default

    def call(*given: Any) -> Any:
        flat = flat_of(given)
        made = handle(*flat)
        if len(many) == 1:
            made = (made,)
        back = [
            [_put_back(each, flat) for each in one] if is_list else _put_back(one, flat, may)
            for one, is_list, may in zip(made, many, maybe, strict=True)
        ]
        return result_of(back)[0]

    return call


def _tensors(flat: Sequence[Any]) -> list[Tensor]:
    """All tensors among flat arguments, those of lists included."""
    found: list[Tensor] = []
    for one in flat:
        if isinstance(one, Tensor):
            found.append(one)
        elif isinstance(one, (list, tuple)):
            found.extend(one)
    return found


class _Fresh:
    """Results as an operator may give them back, see `_operator`; one that shares another's memory is copied."""

    def __init__(self, given: Sequence[Tensor], device: torch.device) -> None:
        self._given = {id(one): place for place, one in enumerate(given)}
        self._device = device
        self._taken: set[int] = set()

    def __call__(self, one: Tensor | None) -> Tensor:
        if one is None:
            return torch.empty(0, dtype=torch.bool, device=self._device)
        place = self._given.get(id(one))
        if place is not None:
            return torch.empty(0, place + 1, dtype=torch.bool, device=self._device)
        memory = _memory(one)
        if memory in self._taken:
            return one.clone()
        self._taken.add(memory)
        return one


def _memory(one: Tensor) -> int:
    """What two views of one memory have in common; fake tensors have it too, and no address."""
    return int(one.untyped_storage()._cdata)


def _put_back(one: Tensor, flat: Sequence[Any], may_be_none: bool = False) -> Tensor | None:
    if one.dtype != torch.bool or one.shape[0] != 0:
        return one
    if one.dim() == 1 and may_be_none:
        return None
    return _tensors(flat)[one.shape[1] - 1] if one.dim() == 2 else one
