"""Base cases: tiny widths, tokens, parameters and states of any rule, and how results are compared."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from hecate_core.errors import InputError
from hecate_core.gates import Gate
from hecate_core.parameters import initial_params
from hecate_core.protocols import MemoryRule
from hecate_core.records import Record, State, Tokens
from hecate_core.shapes import Tensor
from hecate_core.strategies.sequential import Sequential
from hecate_core.testing.engine import Failed
from hecate_core.widths import full_widths

BATCH, HEADS, KEYS, VALUES, SLOTS = 2, 2, 4, 3, 3
DIFFERENCE = 1e-5  # central differences keep at least seven digits in float64
NORMED = ("q", "k")  # streams that a front normalises: rules may assume |k| <= 1
LENGTHS = (0, 1, 7, 63, 100)
"""Lengths that divide by nothing."""

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


class RuleCase:
    """A rule at its smallest: parameters and a state that has seen tokens, in float64 on the CPU.

    Keys and values have different widths where the rule allows it.
    """

    def __init__(self, rule: MemoryRule, *, widths: Mapping[str, int] | None = None, seed: int = 0) -> None:
        self.member = self.rule = rule
        self.seed = seed
        self.widths = _fitting(rule) if widths is None else full_widths(rule, widths)
        self.params = initial_params(rule, self.widths, dtype=torch.float64, seed=seed)

    def tokens(self, count: int, *, seed: int = 1, batch: int = BATCH, inner: bool = False) -> Tokens:
        """Random inputs and used gates `[B, H, T, ...]`; gates touch both ends of their range unless `inner`."""
        return tokens_for(self.rule, self.widths, count, seed=self.seed + seed, batch=batch, inner=inner)

    def token(self, *, seed: int = 1, batch: int = BATCH) -> Tokens:
        """One token without a T axis, gates inside their ranges."""
        return self.tokens(1, seed=seed, batch=batch, inner=True).map(lambda one: one[:, :, 0])

    def fresh(self, batch: int = BATCH) -> State:
        """The rule's first state."""
        return self.rule.init_state(self.params, batch)

    def warm(self, count: int = 5, batch: int = BATCH) -> State:
        """A state that has seen `count` tokens, detached."""
        tokens = self.tokens(count, seed=2, batch=batch, inner=True)
        _, state = Sequential()(self.rule, self.params, tokens, self.fresh(batch))
        return state.map(torch.Tensor.detach)


def _fitting(rule: MemoryRule) -> dict[str, int]:
    """Widths with V apart from K if the rule takes them, else all equal."""
    for values in (VALUES, KEYS):
        widths = full_widths(rule, {"H": HEADS, "K": KEYS, "V": values, "M": SLOTS})
        try:
            params = initial_params(rule, widths, dtype=torch.float64)
            token = tokens_for(rule, widths, 1).map(lambda one: one[:, :, 0])
            rule.step(params, rule.init_state(params, BATCH), token)
        except (InputError, RuntimeError):
            if values == KEYS:
                raise
            continue
        return widths
    raise AssertionError("one of the two returns or raises")


def tokens_for(
    rule: MemoryRule,
    widths: Mapping[str, int],
    count: int,
    *,
    seed: int = 1,
    batch: int = BATCH,
    inner: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Tokens:
    """Random tokens of a rule: what its front and its gate head could have made."""
    random = torch.Generator().manual_seed(seed)
    shape = (batch, widths["H"], count)
    made: dict[str, Tensor] = {}
    for name, letter in rule.inputs.items():
        stream = torch.randn(*shape, widths[letter], generator=random, dtype=torch.float64)
        made[name] = (F.normalize(stream, dim=-1) if name in NORMED else stream).to(dtype)
    for name, gate in rule.gates.items():
        wide = shape if gate.width is None else (*shape, widths[gate.width])
        share = torch.rand(wide, generator=random, dtype=torch.float64)
        if inner:
            share = 0.1 + 0.8 * share
        else:
            share[:, :, ::7], share[:, :, 3::7] = 0.0, 1.0
        wider = torch.promote_types(dtype, torch.float32)
        made[name] = (gate.low + (gate.high - gate.low) * share).to(wider)
    return Tokens.of(made)


def with_gates(tokens: Tokens, gates: Mapping[str, Gate], **values: float) -> Tokens:
    """The tokens with some gates set to a number; names that the rule does not declare are passed over."""
    chosen = {name: value for name, value in values.items() if name in gates}
    return tokens.replace(**{name: torch.full_like(tokens[name], value) for name, value in chosen.items()})


def piece(tokens: Tokens, start: int, stop: int) -> Tokens:
    """Tokens `start` to `stop`."""
    return tokens.map(lambda one: one[:, :, start:stop])


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest error over max(1, largest entry); infinite where one is not finite and the other is."""
    if not expected.numel():
        return 0.0
    if not expected.is_floating_point():  # a mask or a count is right or wrong
        return 0.0 if torch.equal(found, expected) else float("inf")
    error = (found.detach() - expected.detach()).abs().max()
    return float(torch.nan_to_num(error / expected.detach().abs().max().clamp(min=1.0), nan=float("inf")))


def demand_close(what: str, found: Tensor, expected: Tensor, bound: float) -> None:
    """Failed unless shapes agree and the relative error is below `bound`."""
    if found.shape != expected.shape:
        raise Failed(f"{what} is {list(found.shape)}; expected {list(expected.shape)}")
    error = relative(found, expected)
    if not error < bound:
        raise Failed(f"{what} is off by {error:.2g} (relative); allowed {bound:.0e}")


def demand_slope(what: str, slope: float, value: Callable[[float], float]) -> None:
    """Failed unless `slope` is the derivative of `value` at 0 by central differences, at one of five steps.

    A kink (l1, Huber) between the two ends of one step spoils that step alone, and so does a bend as sharp as that of a
    link near 0; the smallest steps are for those, and nothing but rounding for the others.
    """
    found = 0.0
    for step in (1e-5, 1e-6, 1e-7, 1e-8, 1e-9):
        found = (value(step) - value(-step)) / (2.0 * step)
        if abs(found - slope) < DIFFERENCE * max(1.0, abs(found)):
            return
    raise Failed(f"{what} is {slope:.6g} along a line, differences give {found:.6g}")


def demand_same_state(what: str, found: State, expected: State, bound: float = 0.0) -> None:
    """Failed unless both states have the same names, shapes, dtypes and position, and entries within `bound`."""
    one, two = found.flat(), expected.flat()
    if one.keys() != two.keys():
        raise Failed(f"{what}: state has {', '.join(one)}; expected {', '.join(two)}")
    if found.position != expected.position:
        raise Failed(f"{what}: position is {found.position}; expected {expected.position}")
    for name, tensor in two.items():
        if one[name].shape != tensor.shape or one[name].dtype != tensor.dtype:
            raise Failed(
                f"{what}: state.{name} is {list(one[name].shape)} {one[name].dtype}; "
                f"expected {list(tensor.shape)} {tensor.dtype}"
            )
        if bound:
            demand_close(f"{what}: state.{name}", one[name], tensor, bound)
        elif not same_bits(one[name], tensor):
            raise Failed(f"{what}: state.{name} differs by {relative(one[name], tensor):.2g}; expected the same bits")


def same_bits(one: Tensor, two: Tensor) -> bool:
    """Equal entry by entry, NaN equal to NaN."""
    return one.shape == two.shape and bool(torch.equal(torch.nan_to_num(one), torch.nan_to_num(two)))


@contextmanager
def unchanged(**records: Record | Tensor) -> Iterator[None]:
    """Failed if any tensor in the records was written to inside the block: version counters and bytes."""
    watched: dict[str, Tensor] = {}
    for name, record in records.items():
        flat = {name: record} if isinstance(record, Tensor) else {f"{name}.{k}": v for k, v in record.flat().items()}
        watched |= flat
    before = {name: (tensor._version, tensor.detach().clone()) for name, tensor in watched.items()}
    yield
    for name, tensor in watched.items():
        version, content = before[name]
        if tensor._version != version or not same_bits(tensor.detach(), content):
            raise Failed(f"{name} was changed in place; make a new tensor")
