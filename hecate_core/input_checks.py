"""What is checked where tensors come in from outside: names, shapes, ranges, finiteness; one line each."""

from collections.abc import Mapping
from typing import Any

import torch

from hecate_core.errors import InputError, nearest
from hecate_core.gates import Gate
from hecate_core.protocols import MemoryRule
from hecate_core.records import State
from hecate_core.shapes import Tensor
from hecate_core.widths import full_widths

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


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
    _check_names(place, "input", given, rule.inputs)
    _check_names(place, "gate", gates, rule.gates)
    for name, tensor in (*given.items(), *gates.items()):
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in DTYPES:
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise InputError(f"{place}: {name} is {kind}; expected a tensor of float32, float64, bfloat16 or float16")
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
    refuse_non_finite("state", **given)
