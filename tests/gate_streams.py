"""Long texts of keys in every order, at the ends of a rule's gate ranges: how large reads and memory become.

Keys come at random, eight in turn, as one key throughout, and turning by one angle at every token. Every order and
every corner of the ranges, and gates drawn anew at every token, is a row of one batch.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from hecate_core.composing import presented, strategy_of
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.gates import Gate
from hecate_core.parameters import initial_params
from hecate_core.protocols import MemoryRule
from hecate_core.records import Tokens
from hecate_core.shapes import Tensor
from hecate_core.strategy_gates import gates_under
from hecate_core.widths import full_widths

ANGLES = (0.03, 0.1, 0.3)
ORDERS = ("random", "cycling", "constant", *(f"turning by {angle}" for angle in ANGLES))
WIDTH, PIECE, TURNS = 8, 512, 8
AS_KEYS = ("k", "x")  # what is written under; x is the token of rules that make keys of it


def corners(gates: Mapping[str, Gate]) -> list[tuple[float, ...]]:
    """Every gate at its start, and every combination of ends of ranges."""
    found = list(gates.values())
    return [tuple(gate.init for gate in found), *product(*((gate.low, gate.high) for gate in found))]


def keys(width: int, first: int, count: int, random: torch.Generator) -> Tensor:
    """`[orders, 1, count, width]`: unit keys from token `first` on."""
    base = F.normalize(torch.randn(TURNS, width, generator=torch.Generator().manual_seed(7)), dim=-1)
    across, _ = torch.linalg.qr(base[:2].mT)
    token = torch.arange(first, first + count)
    rows = [F.normalize(torch.randn(count, width, generator=random), dim=-1), base[token % TURNS], base[token * 0]]
    for angle in ANGLES:
        turned = (angle * token.double()).unsqueeze(-1)
        rows.append((turned.cos() * across[:, 0] + turned.sin() * across[:, 1]).float())
    return torch.stack(rows).unsqueeze(1)


def strategies(rule: MemoryRule, chunks: tuple[int, ...] = (16, 64)) -> Iterator[tuple[Any, int]]:
    """Every strategy of core and `tnt` that serves a rule, one that is exact first, with the chunks that matter to it.

    A rule without an exact chunk form is exact token by token.
    """
    affine = not isinstance(rule.offers(Affine), Refused)
    yield ("chunkwise", chunks[0]) if affine else ("sequential", 1)
    if not isinstance(rule.offers(Linearised), Refused):
        yield from (("frozen", chunk) for chunk in chunks)
        yield from (({"name": "tnt", "global_chunk": chunk, "project": False}, chunk) for chunk in chunks)


def widths_for(rule: MemoryRule, width: int) -> Mapping[str, int]:
    """One head of keys and values `width` wide, half as wide where a rule makes many features of them."""
    widths = full_widths(rule, {"H": 1, "K": width, "V": width, "M": width})
    if max(widths.values()) <= 4 * WIDTH:
        return widths
    return full_widths(rule, {"H": 1, "K": width // 2, "V": width // 2, "M": width // 2})


def largest(rule: MemoryRule, strategy: Any, chunk: int, count: int, width: int = WIDTH) -> Tensor:
    """`[orders, corners + 1]`: the largest read of `count` tokens, infinite where reads or state are no numbers.

    First the gates at their start, then all corners, last gates that are drawn anew at every token.
    """
    spread = strategy_of(strategy, rule, chunk=chunk)
    shown, gates = presented(rule, spread), gates_under(rule, spread)
    rows, widths = corners(gates), widths_for(shown, width)
    each = len(rows) + 1
    params, random = initial_params(shown, widths), torch.Generator().manual_seed(0)
    state, found = spread.init_state(shown, params, len(ORDERS) * each), torch.zeros(len(ORDERS), each)
    for first in range(0, count, PIECE):
        size = min(PIECE, count - first)
        tokens = _tokens(shown, widths, first, size, random, rows, gates)
        with torch.no_grad():
            y, state = spread(shown, params, tokens, state)
        found = torch.maximum(found, _size(y, each))
        for one in state.flat().values():
            found = torch.where(torch.isfinite(_size(one, each)), found, float("inf"))
        if not bool(torch.isfinite(found).all()):
            break
    return found


def _tokens(
    rule: MemoryRule,
    widths: Mapping[str, int],
    first: int,
    count: int,
    random: torch.Generator,
    rows: list[tuple[float, ...]],
    gates: Mapping[str, Gate],
) -> Tokens:
    """Inputs of all orders, each at all corners and with gates drawn at random; queries are the keys themselves."""
    made = {}
    for name, letter in rule.inputs.items():
        if name in AS_KEYS:
            made[name] = keys(widths[letter], first, count, random)
        else:
            made[name] = torch.randn(1, 1, count, widths[letter], generator=random).expand(len(ORDERS), -1, -1, -1)
    made["q"] = made.get("k", made.get("x", made["q"]))
    if "x" in made:
        made["x"] = made["x"] * widths[rule.inputs["x"]] ** 0.5
    tokens = Tokens.of({name: one.repeat_interleave(len(rows) + 1, 0) for name, one in made.items()})
    for name, values in zip(gates, zip(*rows, strict=True), strict=True):
        letter = gates[name].width
        shape = (-1, 1, count) if letter is None else (-1, 1, count, widths[letter])
        each = torch.tensor([*values, 0.0]).repeat(len(ORDERS)).view(-1, *[1] * (len(shape) - 1)).expand(shape).clone()
        drawn = torch.rand(each[:1].shape, generator=random)
        each[len(values) :: len(values) + 1] = gates[name].low + (gates[name].high - gates[name].low) * drawn
        tokens = tokens.replace(**{name: each})
    return tokens


def _size(one: Tensor, rows: int) -> Tensor:
    """The largest entry by order and corner, infinite where one is no number."""
    whole = one.contiguous().to(torch.float64).abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
    return whole.view(len(ORDERS), rows, -1).amax(2).float()


def told(found: Tensor) -> str:
    """The largest read of every order."""
    return ", ".join(f"{name} {float(one):.3g}" for name, one in zip(ORDERS, found.amax(1), strict=True))
