"""The tape: inside it only marked code is differentiated, and lost gradients are errors.

Under `inference_mode` unmarked code makes *inference tensors*, a mark at no cost that PyTorch
itself keeps. A marked function looks for it, and for the two ways around it (views and aliases of
tracked tensors), when tensors enter and leave.
"""

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, overload

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from hecate_core.differentiation.arguments import Mark, gather
from hecate_core.differentiation.errors import ChangedArgument, SeveredGradient
from hecate_core.errors import InputError, nearest

# The number that the next autograd node of this thread will get; nodes carry theirs for life.
_next_node: Callable[[], int] = (  # hecate: allow PT-01 -- the audit needs it, and torch shows it nowhere else
    torch.autograd._get_sequence_nr  # type: ignore[attr-defined]
)


class _Thread(threading.local):
    """Gradient modes are per thread, and so is the tape."""

    tape: "Tape | None" = None  # the open tape
    watching: "Tape | None" = None  # the same outside marked functions, None inside them


thread = _Thread()


class Tape:
    """Encloses one forward pass, inside which nothing is differentiated unless it is marked.

    with Tape() as tape:
        loss = marked_forward(batch)
    gradients = tape.grad(loss, dict(model.named_parameters()))

    Building, loading, initial state, batches and the optimizer stand outside. `cuts` counts the
    gradients severed on purpose, `entries` the calls of marked functions from unmarked code by
    name. A tape is used once, in one thread; worker threads see neither it nor its mode.
    """

    def __init__(self) -> None:
        self.cuts = 0
        self.entries: Counter[str] = Counter()
        self._mode: Any = None
        # A weak reference keeps the storage's identity (not its memory), so that an address which
        # the allocator hands out again is not mistaken for the old storage.
        self._tracked: dict[int, StorageWeakRef] = {}
        self._modules: dict[nn.Module, list[Tensor]] = {}
        self._intervals: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        if thread.tape is not None:
            raise InputError("Tape: another Tape is open in this thread; close it first, tapes do not nest")
        if self._mode is not None:
            raise InputError("Tape: this Tape has been used; open a new one for each forward pass")
        self._mode = torch.inference_mode()
        self._mode.__enter__()
        thread.tape = thread.watching = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread.tape = thread.watching = None
        self._mode.__exit__(kind, error, trace)
        self._tracked.clear()
        self._modules.clear()

    def call(self, mark: Mark, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a marked function with gradients on, and check what enters and leaves."""
        tensors, modules = self._arguments(mark, args, kwargs)
        self._check_inputs(mark, args, kwargs, tensors, modules)
        for module in modules:
            tensors.extend(self._modules[module])
        versions = versions_of(tensors)
        torch.clear_autocast_cache()  # its copies of weights are from another graph, and stale after a step
        self.entries[mark.name] += 1
        thread.watching = None
        try:
            with torch.inference_mode(False):
                first = _next_node()
                result = function(*args, **kwargs)
                self._intervals.append((first, _next_node()))
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            raise SeveredGradient(_kept_for_backward(mark, args, kwargs)) from error
        finally:
            thread.watching = self
        check_versions(mark, args, kwargs, tensors, versions)
        self._check_outputs(mark, result)
        return result

    @overload
    def grad(
        self, loss: Tensor, params: Mapping[str, Tensor], unused: Iterable[str] = ...
    ) -> dict[str, Tensor | None]: ...
    @overload
    def grad(
        self, loss: Tensor, params: Iterable[Tensor], unused: Iterable[Tensor] = ...
    ) -> tuple[Tensor | None, ...]: ...
    def grad(self, loss: Tensor, params: Any, unused: Iterable[Any] = ()) -> Any:
        """Gradients of a one-element `loss`, by name for a mapping, else in the order of `params`.

        `unused` declares (by name, or as tensors where `params` is no mapping) what this loss may
        leave unreached; those gradients are None. May be called inside the Tape and after it.
        Raises SeveredGradient for a loss that is not connected and for an unreached parameter.
        """
        by_name = isinstance(params, Mapping)
        named: list[tuple[Any, Tensor]] = list(params.items()) if by_name else list(enumerate(params))
        allowed = _allowed(params, unused)
        self._check_loss(loss)
        reachable = [tensor for _, tensor in named if tensor.requires_grad]
        found: dict[int, Tensor | None] = {}
        if reachable:
            watching, thread.watching = thread.watching, None  # recomputed (checkpointed) marks are plain calls
            try:
                with torch.inference_mode(False):
                    gradients = torch.autograd.grad(loss, reachable, allow_unused=True)
            finally:
                thread.watching = watching
            found = {id(tensor): gradient for tensor, gradient in zip(reachable, gradients, strict=True)}
        for name, tensor in named:
            if found.get(id(tensor)) is None and id(tensor) not in allowed:
                why = "is not reached by the loss" if tensor.requires_grad else "has requires_grad=False"
                which = f'"{name}"' if by_name else f"{name} of shape {tuple(tensor.shape)}"
                raise SeveredGradient(f"Tape.grad: parameter {which} {why}; use it, or declare it as unused")
        if by_name:
            return {name: found.get(id(tensor)) for name, tensor in named}
        return tuple(found.get(id(tensor)) for _, tensor in named)

    def audit(self, loss: Tensor) -> int:
        """Walk the graph behind `loss`; every node must come from a marked call under this Tape.

        Returns the number of nodes, parameters excluded; raises SeveredGradient naming the first
        stray node. For tests and the first step of a run: about a microsecond per node.
        """
        starts = [first for first, _ in self._intervals]
        pending = [] if loss.grad_fn is None else [loss.grad_fn]
        seen = set(pending)
        counted = 0
        while pending:
            node = pending.pop()
            if not hasattr(node, "variable"):  # a parameter's accumulator is no computation
                counted += 1
                number = node._sequence_nr()
                interval = bisect_right(starts, number) - 1
                if interval < 0 or number >= self._intervals[interval][1]:
                    raise SeveredGradient(
                        f"Tape.audit: graph node {node.name()} was recorded outside marked functions; "
                        "mark the function that builds it"
                    )
            fresh = [after for after, _ in node.next_functions if after is not None and after not in seen]
            seen.update(fresh)
            pending.extend(fresh)
        return counted

    def _check_loss(self, loss: Tensor) -> None:
        if loss.numel() != 1:
            raise InputError(f"Tape.grad: the loss has shape {tuple(loss.shape)}; expected one element")
        reason = self._severed(loss)
        if reason is None and not loss.requires_grad:
            reason = "depends on no parameter"
        if reason is not None:
            raise SeveredGradient(f"Tape.grad: the loss {reason}; compute it in a function marked @autodiff")

    def _arguments(
        self, mark: Mark, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[list[Tensor], list[nn.Module]]:
        tensors: list[Tensor] = []
        modules: list[nn.Module] = []
        for value in (*args, *kwargs.values()):
            gather(value, tensors, modules)
        if mark.captured:
            for _, value in mark.captures():
                gather(value, tensors, modules)
        return tensors, modules

    def _check_inputs(
        self,
        mark: Mark,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        tensors: Sequence[Tensor],
        modules: Iterable[nn.Module],
    ) -> None:
        for tensor in tensors:
            reason = self._severed(tensor)
            if reason is not None:
                raise SeveredGradient(
                    f"{mark.name}: argument `{_name(mark, args, kwargs, tensor)}` {reason}; "
                    "make it before the Tape or in a function marked @autodiff, or pass cut(...)"
                )
        for module in modules:
            if module not in self._modules:  # walking a module is slow: once per Tape
                for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                    if tensor.is_inference():
                        raise SeveredGradient(
                            f"{mark.name}: `{name}` of {type(module).__name__} was made inside a Tape; "
                            "build and load modules outside"
                        )
                self._modules[module] = list(module.parameters())

    def _check_outputs(self, mark: Mark, result: Any) -> None:
        outputs: list[Tensor] = []
        gather(result, outputs, [])
        for tensor in outputs:
            if tensor.requires_grad and not _is_bare_view(tensor):
                key = storage_key(tensor)
                if key and key not in self._tracked:
                    self._tracked[key] = StorageWeakRef(tensor.untyped_storage())
        for place, tensor in enumerate(outputs):
            reason = self._severed(tensor)
            if reason is not None:
                raise SeveredGradient(
                    f"{mark.name}: result {place} {reason}; a gradient ends only in cut(...) or @no_autodiff"
                )

    def _severed(self, tensor: Tensor) -> str | None:
        """Why a gradient would end at `tensor`; None for a sound one. Integer tensors are exempt."""
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return None
        if tensor.is_inference():
            return "comes from unmarked code inside a Tape"
        if tensor.requires_grad:
            return "is a view taken by unmarked code" if _is_bare_view(tensor) else None
        if storage_key(tensor) in self._tracked:
            return "is a detached alias of a tracked tensor"
        return None


def check_versions(
    mark: Mark, args: tuple[Any, ...], kwargs: Mapping[str, Any], tensors: Sequence[Tensor], before: Sequence[int]
) -> None:
    """Raise ChangedArgument if one of `tensors` was written in place since `before` was taken."""
    after = versions_of(tensors)
    if after != before:
        changed = next(tensor for tensor, old, new in zip(tensors, before, after, strict=True) if old != new)
        raise ChangedArgument(
            f"{mark.name}: argument `{_name(mark, args, kwargs, changed)}` was changed in place; return a new tensor"
        )


def _is_bare_view(tensor: Tensor) -> bool:
    """A view of a tracked tensor that still says requires_grad, but has no graph behind it."""
    if not (tensor.is_leaf and tensor._is_view()):
        return False
    base: Tensor | None = tensor._base
    return base is not None and base.requires_grad  # a slice that was made a leaf on purpose is sound


def storage_key(tensor: Tensor) -> int:
    """The identity of a tensor's storage while it lives; 0 for tensors without one (sparse, vmapped)."""
    try:
        key: int = tensor.untyped_storage()._cdata
        return key
    except (NotImplementedError, RuntimeError):
        return 0


def versions_of(tensors: Sequence[Tensor]) -> list[int]:
    """Write counters; inference tensors have none and cannot be written outside their mode."""
    return [-1 if tensor.is_inference() else tensor._version for tensor in tensors]


def _name(mark: Mark, args: tuple[Any, ...], kwargs: Mapping[str, Any], wanted: Tensor) -> str:
    return next((path for path, tensor in mark.named(args, kwargs) if tensor is wanted), "?")


def _kept_for_backward(mark: Mark, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    stray = [path for path, tensor in mark.named(args, kwargs) if tensor.is_inference()]
    what = f"argument `{stray[0]}`" if stray else "a global or attribute that the function reads"
    return (
        f"{mark.name}: {what} was made inside a Tape and backward needs it; make it before the Tape, or pass cut(...)"
    )


def _allowed(params: Any, unused: Iterable[Any]) -> set[int]:
    """Identities of the tensors that may stay unreached."""
    if not isinstance(params, Mapping):
        return {id(tensor) for tensor in unused}
    for name in (unused := tuple(unused)):
        if name not in params:
            raise InputError(f'Tape.grad: unused "{name}" is no parameter{nearest(str(name), params)}')
    return {id(params[name]) for name in unused}
