"""Random sequences for tests: inputs and used gates of any registered rule, ends of the ranges included."""

import torch
import torch.nn.functional as F

from hecate_core.composing import rule_of
from hecate_core.forms import Affine, Refused
from hecate_core.protocols import MemoryRule
from hecate_core.records import Tokens
from hecate_core.registry import registry
from hecate_core.shapes import Tensor
from hecate_core.widths import full_widths

WIDTHS = {"K": 5, "V": 4, "M": 6, "F": 7}


def rules_with(form: type) -> list[str]:
    """Every registered rule that offers the form."""
    return [name for name in registry().names("rule") if not isinstance(rule_of(name).offers(form), Refused)]


AFFINE_RULES = rules_with(Affine)


def sequence(
    rule: MemoryRule,
    count: int,
    *,
    batch: int = 2,
    heads: int = 2,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs (unit keys and queries) and gates; every gate is 0 at token 0 and 1 at token 1."""
    random, widths = torch.Generator().manual_seed(seed), full_widths(rule, {"H": heads, **WIDTHS})
    inputs = {}
    for name, letter in rule.inputs.items():
        made = torch.randn(batch, heads, count, widths[letter], generator=random, dtype=torch.float64)
        inputs[name] = (F.normalize(made, dim=-1) if letter == "K" else made).to(dtype)
    gates = {}
    for name, gate in rule.gates.items():
        shape = (batch, heads, count) if gate.width is None else (batch, heads, count, widths[gate.width])
        used = gate.low + (gate.high - gate.low) * torch.rand(shape, generator=random, dtype=torch.float64)
        used[:, :, :1], used[:, :, 1:2] = gate.domain[0], min(gate.domain[1], 1.0)
        gates[name] = used.to(torch.promote_types(dtype, torch.float32))
    return inputs, gates


def tokens_of(inputs: dict[str, Tensor], gates: dict[str, Tensor]) -> Tokens:
    """The record that strategies take."""
    return Tokens.of({**inputs, **gates})


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest error over max(1, largest entry); a mask is right or wrong."""
    if not expected.numel():
        return 0.0
    if expected.dtype == torch.bool:
        return 0.0 if torch.equal(found, expected) else float("inf")
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))
