"""What is checked where tensors come in from outside: names, shapes, ranges, finiteness; one line each."""

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import nn

from hecate_core.errors import InputError, nearest
from hecate_core.gates import Gate
from hecate_core.protocols import MemoryRule, Param
from hecate_core.records import State
from hecate_core.shapes import Tensor
from hecate_core.widths import full_widths

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def refuse_transforms(place: str, tensors: Iterable[Any]) -> None:
    """InputError where torch.func or torch.export would go around the analytical backward of an op.

    Under torch.func it has no rule; torch.export records the forward alone, so that a program made where gradients are
    recorded would fail in backward, or give another gradient. Without gradients an export is exact.
    """
    if torch.compiler.is_exporting():
        if torch.is_grad_enabled() and any(isinstance(one, Tensor) and one.requires_grad for one in tensors):
            raise InputError(
                f"{place}: torch.export records no analytical backward, so gradients of the program would be wrong; "
                "export under torch.no_grad(), and build with the layer itself"
            )
    elif not torch.compiler.is_compiling() and _is_transformed():
        raise InputError(
            f"{place}: torch.func (vmap, grad, jvp) finds no rule for an analytical backward; use torch.autograd.grad, "
            "and rows of the batch instead of vmap"
        )


def _is_transformed() -> bool:
    active: bool = torch._C._are_functorch_transforms_active()  # hecate: allow PT-01 -- torch shows it nowhere else
    return active


def precision_of(tensors: Iterable[Any]) -> torch.dtype:
    """The dtype to compute in: the widest of these floats, float32 at least; anything else is left out."""
    floats = (one.dtype for one in tensors if isinstance(one, Tensor) and one.is_floating_point())
    return reduce(torch.promote_types, floats, torch.float32)


def refuse_non_finite(place: str, **tensors: Tensor) -> None:
    """InputError for NaN or Inf in eager CPU calls; an asynchronous assert on a GPU, nothing while compiling."""
    if torch.compiler.is_compiling():
        return
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        if tensor.is_cuda:
            torch._assert_async(torch.isfinite(tensor).all())
        elif tensor.device.type == "cpu" and not _all_finite(tensor):
            kind = "NaN" if bool(torch.isnan(tensor).any()) else "Inf"
            raise InputError(f"{place}: {name} holds {kind}; expected finite numbers")


def _all_finite(tensor: Tensor) -> bool:
    """A finite sum proves it at a tenth of the cost; large numbers may add up to Inf and are then looked at."""
    return bool(tensor.detach().sum().isfinite()) or bool(torch.isfinite(tensor).all())


def check_inputs(rule: MemoryRule, given: Mapping[str, Tensor], gates: Mapping[str, Tensor]) -> None:
    """InputError unless inputs and gates are the declared ones, shaped alike, finite and in range."""
    place = f'memory(rule="{rule.name}")'
    if not isinstance(gates, Mapping):
        raise InputError(f"{place}: gates is a {type(gates).__name__}; expected a table of tensors by name")
    _check_names(place, "input", given, rule.inputs)
    _check_names(place, "gate", gates, rule.gates)
    for name, tensor in (*given.items(), *gates.items()):
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in DTYPES:
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise InputError(f"{place}: {name} is {kind}; expected a tensor of float32, float64, bfloat16 or float16")
        _check_device(f"{place}: {name}", tensor, given["q"].device, "as q")
    shape = given["q"].shape
    widths: dict[str, int] = {}
    for name, tensor in given.items():
        if tensor.dim() != 4 or tensor.shape[:3] != shape[:3]:
            raise InputError(f"{place}: {name} is {list(tensor.shape)}; expected [B, H, T, width], as q {list(shape)}")
        letter = rule.inputs[name]
        if widths.setdefault(letter, tensor.shape[3]) != tensor.shape[3]:
            raise InputError(f"{place}: {name} has width {tensor.shape[3]}; expected {letter} = {widths[letter]}")
    for name, tensor in gates.items():
        width = rule.gates[name].width
        wanted = [*shape[:3]] if width is None else [*shape[:3], full_widths(rule, widths)[width]]
        if list(tensor.shape) != wanted:
            raise InputError(f"{place}: gate {name} is {list(tensor.shape)}; expected {wanted}")
    refuse_non_finite(place, **given, **gates)
    for name, tensor in gates.items():
        _check_range(place, name, tensor, rule.gates[name])


def _check_names(place: str, kind: str, given: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    for name in given:
        if name not in declared:
            raise InputError(f'{place}: unknown {kind} "{name}"{known(name, declared)}')
    for name in declared:
        if name not in given:
            raise InputError(f'{place}: {kind} "{name}" is missing; the rule declares {", ".join(declared)}')


def _check_range(place: str, name: str, used: Tensor, gate: Gate) -> None:
    if torch.compiler.is_compiling() or used.device.type != "cpu" or not used.numel():
        return
    low, high = gate.domain
    if bool(((used < low) | (used > high)).any()):
        raise InputError(
            f"{place}: gate {name} goes from {float(used.min()):.4g} to {float(used.max()):.4g}; "
            f"expected used values in [{low:g}, {high:g}]"
        )


def known(name: str, declared: Mapping[str, Any]) -> str:
    """The did-you-mean tail of a message about an unknown name."""
    return nearest(name, declared) if declared else "; the rule declares none"


def check_params(
    rule: MemoryRule, params: Mapping[str, Tensor] | None, widths: Mapping[str, int], device: torch.device
) -> None:
    """InputError unless `params` are some of the declared ones: finite floats of the declared axes, on `device`."""
    place = f'memory(rule="{rule.name}")'
    for name, one in (params or {}).items():
        if name not in rule.params:
            raise InputError(f'{place}: unknown parameter "{name}"{known(name, rule.params)}')
        if not isinstance(one, Tensor) or one.dtype not in DTYPES:
            kind = one.dtype if isinstance(one, Tensor) else type(one).__name__
            raise InputError(f"{place}: parameter {name} is {kind}; expected a tensor of floats")
        _check_axes(f"{place}: parameter {name}", rule.params[name], one, widths)
        _check_device(f"{place}: parameter {name}", one, device, "as q")
    refuse_non_finite(f"{place}: params", **(params or {}))


def _check_axes(place: str, declared: Param, one: Tensor, widths: Mapping[str, int]) -> None:
    if all(letter in widths for letter in declared.axes.split()):
        wanted = [widths[letter] for letter in declared.axes.split()]
        if list(one.shape) != wanted:
            raise InputError(f"{place} is {list(one.shape)}; expected [{', '.join(declared.axes.split())}] = {wanted}")


def _check_device(place: str, one: Tensor, device: torch.device, like: str) -> None:
    if one.device != device:
        raise InputError(f"{place} is on {one.device}; expected {device}, {like}")


def check_marks(name: str, marks: Any, batch: int, count: int, device: torch.device) -> None:
    """InputError unless `marks` is None or bool `[B, T]` on `device`."""
    if marks is None:
        return
    if not isinstance(marks, Tensor):
        raise InputError(f"{name} is a {type(marks).__name__}; expected a bool tensor [B, T] = [{batch}, {count}]")
    if marks.shape != (batch, count) or marks.dtype != torch.bool:
        what = f"{marks.dtype} {list(marks.shape)}"
        raise InputError(f"{name} is {what}; expected bool [B, T] = [{batch}, {count}]")
    _check_device(name, marks, device, "as the tokens")


def check_activations(place: str, x: Any, width: int, like: Tensor) -> None:
    """InputError unless x is finite `[B, T, width]` in the dtype and on the device of the weight `like`."""
    if not isinstance(x, Tensor):
        raise InputError(f"{place}: x is a {type(x).__name__}; expected a tensor [B, T, {width}]")
    if x.dim() != 3 or x.shape[2] != width:
        raise InputError(f"{place}: x is {list(x.shape)}; expected [B, T, {width}]")
    _check_device(f"{place}: x", x, like.device, "as the weights")
    if x.dtype != like.dtype and not torch.is_autocast_enabled(x.device.type):
        raise InputError(f"{place}: x is {x.dtype}; expected {like.dtype}, as the weights")
    refuse_non_finite(place, x=x)


def check_ids(ids: Any, vocab: int, device: torch.device) -> None:
    """InputError unless ids are int32 or int64 `[B, T]` on `device`, on the CPU each in [0, vocab)."""
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64) or ids.dim() != 2:
        what = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        raise InputError(f"model: ids is {what}; expected int64 [B, T]")
    _check_device("model: ids", ids, device, "as the weights")
    if torch.compiler.is_compiling() or ids.device.type != "cpu" or not ids.numel():
        return  # elsewhere the embedding's own assertion speaks, without waiting for the device
    low, high = (int(one) for one in torch.aminmax(ids))
    if low < 0 or high >= vocab:
        raise InputError(f"model: ids go from {low} to {high}; expected 0 to {vocab - 1} for model.vocab = {vocab}")


class StateShape:
    """The names and shapes that the state of a module has, taken once from `module.init_state(1)`."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._wanted: dict[str, torch.Size] | None = None

    def check(self, module: nn.Module, state: Any, batch: int) -> None:
        """InputError for the state of another module: another name, width, kind or batch. Numbers are not read."""
        if torch.compiler.is_compiling():
            return
        if not isinstance(state, State):
            kind = type(state).__name__
            raise InputError(f"{self._place}: state is a {kind}; expected the State of init_state(batch) or of a call")
        if self._wanted is None:
            with torch.no_grad():
                fresh: State = module.init_state(1)  # type: ignore[operator]
            self._wanted = {name: one.shape[1:] for name, one in fresh.flat().items()}
        given, wanted = state.flat(), self._wanted
        for name in (*given, *wanted):
            if (name in given) != (name in wanted):
                what = f'has "{name}"' if name in given else f'has no "{name}"'
                raise InputError(f"{self._place}: state {what}; expected a state of this very composition and rule")
        for name, one in given.items():
            if one.shape != (batch, *wanted[name]):
                shape = [batch, *wanted[name]]
                raise InputError(f"{self._place}: state.{name} is {list(one.shape)}; expected {shape} for these tokens")


def check_state(expected: State, state: State) -> None:
    """InputError unless `state` has the names, shapes and kinds of `expected`, finite, float32 or wider."""
    if not isinstance(state, State):
        raise InputError(f"state is a {type(state).__name__}; expected the State that an earlier call returned")
    wanted, given = expected.flat(), state.flat()
    for name in given:
        if name not in wanted:
            raise InputError(
                f'state has "{name}"; expected a state of this rule and strategy, which have {", ".join(wanted)} only'
            )
    for name in wanted:
        if name not in given:
            raise InputError(f'state has no "{name}"; expected a state of this rule and strategy: {", ".join(wanted)}')
        if given[name].shape != wanted[name].shape:
            raise InputError(
                f"state.{name} is {list(given[name].shape)}; expected {list(wanted[name].shape)} for these inputs"
            )
        kept = wanted[name].dtype
        wide = (torch.float32, torch.float64) if kept.is_floating_point else (kept,)
        if given[name].dtype not in wide:
            expected_kind = "float32 or wider" if kept.is_floating_point else kept
            raise InputError(f"state.{name} is {given[name].dtype}; expected {expected_kind}")
        _check_device(f"state.{name}", given[name], wanted[name].device, "as q")
    refuse_non_finite("state", **given)
