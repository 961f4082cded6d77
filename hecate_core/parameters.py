"""A rule's outer parameters: made from what it declares, held in a module, handed over as a record."""

import math

import torch
from torch import nn

from hecate_core.errors import InputError
from hecate_core.precision import widened
from hecate_core.protocols import MemoryRule, Param, Widths
from hecate_core.records import Params
from hecate_core.shapes import Tensor
from hecate_core.widths import full_widths


def initial_param(
    declared: Param,
    widths: Widths,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """A fresh parameter with the declared axes; noise is normal with deviation start / sqrt(last axis)."""
    try:
        shape = [widths[letter] for letter in declared.axes.split()]
    except KeyError as missing:
        have = ", ".join(f"{letter} = {size}" for letter, size in widths.items())
        raise InputError(f"parameter with axes {declared.axes!r}: no width {missing}; given: {have}") from None
    if declared.start == "zeros":
        return torch.zeros(shape, dtype=dtype, device=device)
    if declared.start == "ones":
        return torch.ones(shape, dtype=dtype, device=device)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (float(declared.start) / math.sqrt(shape[-1]) * noise).to(device=device, dtype=dtype or torch.float32)


def initial_params(
    rule: MemoryRule,
    widths: Widths,
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Params:
    """Every outer parameter of a rule at its declared start; the same seed gives the same noise."""
    generator, widths = torch.Generator().manual_seed(seed), full_widths(rule, widths)
    return Params.of(
        {
            name: initial_param(declared, widths, generator=generator, dtype=dtype, device=device)
            for name, declared in rule.params.items()
        }
    )


class RuleParams(nn.Module):
    """Holds a rule's parameters: those that learn as nn.Parameter, the others as buffers."""

    def __init__(self, rule: MemoryRule, widths: Widths) -> None:
        super().__init__()
        self._declared, widths = tuple(rule.params), full_widths(rule, widths)
        for name, declared in rule.params.items():
            start = initial_param(declared, widths)
            if declared.learned:
                self.register_parameter(name, nn.Parameter(start))
            else:
                self.register_buffer(name, start, persistent=False)

    def record(self) -> Params:
        """The present values, float32 or wider: rules keep their state in that precision."""
        return Params.of({name: widened(getattr(self, name)) for name in self._declared})
