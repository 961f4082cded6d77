"""What an identity is, and the tokens, gates and rules that all of them use, in float64."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen

from hecate_core import memory
from hecate_core.composing import rule_of
from hecate_core.parameters import initial_params
from hecate_core.records import State
from hecate_core.registry import registry
from hecate_core.shapes import Tensor

EXACT = 1e-11  # float64, other orders of the same sums over 13 tokens
B, H, T, K = 2, 2, 13, 4  # values as wide as keys: residual memories ask for it
WIDTHS = {"H": H, "K": K, "V": K}

EXPONENTS = {"2": 2.0, "next to 2": math.nextafter(2.0, 3.0)}
"""Of a norm: at 2 a rule may go without its link, beside it the link is evaluated and differs by rounding alone."""

Sides = tuple[Tensor, Tensor]


@frozen
class Identity:
    """A claim `found == expected`, and the members, "kind name", that it is about."""

    claim: str
    needs: tuple[str, ...]
    sides: Callable[[], Sides]

    @property
    def missing(self) -> list[str]:
        """Which of its members are not registered."""
        return [one for one in self.needs if one.split()[1] not in registry().names(one.split()[0])]


IDENTITIES: list[Identity] = []


def identity(claim: str, *needs: str) -> Callable[[Callable[[], Sides]], Callable[[], Sides]]:
    def add(sides: Callable[[], Sides]) -> Callable[[], Sides]:
        IDENTITIES.append(Identity(claim, needs, sides))
        return sides

    return add


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(**changes: Tensor) -> dict[str, Tensor]:
    """Unit keys, any queries and values."""
    made = {name: normal(B, H, T, K, seed=seed) for seed, name in enumerate("qkv")}
    return {**made, "k": F.normalize(made["k"], dim=-1), **changes}


def gate(seed: int, low: float = 0.0, high: float = 1.0, width: int | None = None) -> Tensor:
    shape = (B, H, T) if width is None else (B, H, T, width)
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full(value: float, width: int | None = None) -> Tensor:
    return torch.full((B, H, T) if width is None else (B, H, T, width), value, dtype=torch.float64)


RETAIN, WRITE = gate(11, 0.5), gate(12, 0.0, 0.5)


def run(rule: Any, given: Mapping[str, Tensor] | None = None, **more: Any) -> tuple[Tensor, State]:
    """`memory` with `retain`, `write` ... as gates; `strategy`, `chunk_size`, `params`, `state` as they are."""
    options = {key: more.pop(key) for key in ("strategy", "chunk_size", "params", "state") if key in more}
    options = {"strategy": "sequential", **options}
    y, state = memory(**(tokens() if given is None else given), rule=rule, gates=more, **options)
    return y, state


def read(rule: Any, given: Mapping[str, Tensor] | None = None, **more: Any) -> Tensor:
    return run(rule, given, **more)[0]


def first_params(rule: Any) -> dict[str, Tensor]:
    """The declared start, drawn: the same names and seed give the same numbers."""
    return dict(initial_params(rule_of(rule), WIDTHS, dtype=torch.float64))


def knobs(
    structure: Any = "matrix", bias: Any = "l2", retention: Any = "scalar", algorithm: Any = "gd"
) -> dict[str, Any]:
    return {"structure": structure, "bias": bias, "retention": retention, "algorithm": algorithm}
