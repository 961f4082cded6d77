"""What a strategy must do with a rule, one function per law; the suites of rules and of strategies share them."""

import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import cast

import torch

from hecate_core.composing import presented
from hecate_core.errors import CompositionError
from hecate_core.forms import Linearised, Refused
from hecate_core.protocols import Strategy
from hecate_core.records import State, Tokens, unflat
from hecate_core.shapes import Tensor
from hecate_core.strategies.sequential import Sequential
from hecate_core.testing.engine import Failed
from hecate_core.testing.samples import (
    BATCH,
    RuleCase,
    demand_close,
    demand_same_state,
    demand_slope,
    piece,
    relative,
    same_bits,
    unchanged,
)
from hecate_core.testing.stored import Held, crossed, demand_rest, parts, with_anchors_held

COUNT = 13  # tokens: three chunks of four and a ragged end
EXACT = 1e-9  # float64: the same sums in another order
GRADIENT = 1e-8  # float64: analytical against autograd of the token loop

Law = Callable[[RuleCase, Strategy], None]

LOOP = cast(Strategy, Sequential())
"""The token loop: what every strategy is measured against."""


def late(strategy: Strategy) -> int:
    """The tokens on whose next multiple what is written is read; 0: at once."""
    period: int = strategy.late() if hasattr(strategy, "late") else 0
    return period


def run(
    case: RuleCase, strategy: Strategy, tokens: Tokens, state: State | None = None, write: Tensor | None = None
) -> tuple[Tensor, State]:
    """The strategy over the tokens, from a first state unless one is given."""
    batch = tokens.q.shape[0]
    first = strategy.init_state(case.rule, case.params, batch) if state is None else state
    return strategy(case.rule, case.params, tokens, first, write)


def carried(case: RuleCase, strategy: Strategy) -> State:
    """A state in the middle of a text, and of a chunk."""
    return run(case, strategy, case.tokens(6, seed=2, inner=True))[1].map(torch.Tensor.detach)


def equals_sequential(case: RuleCase, strategy: Strategy) -> None:
    """An exact strategy gives what the token loop gives, and so does one that inherits exactness from the form."""
    form: object = None if strategy.needs is None else case.rule.offers(strategy.needs)  # type: ignore[type-var]
    if not (strategy.exact or (getattr(strategy, "inherits", False) and getattr(form, "exact", False))):
        return
    tokens = case.tokens(COUNT)
    expected, end = run(case, LOOP, tokens)
    y, state = run(case, strategy, tokens)
    demand_close(f"{strategy.name}: reads against the token loop", y, expected, EXACT)
    for name, tensor in end.flat().items():
        demand_close(f"{strategy.name}: state.{name} against the token loop", state.flat()[name], tensor, EXACT)


def is_causal(case: RuleCase, strategy: Strategy) -> None:
    """Changing token j changes no read before j, bit for bit."""
    tokens = case.tokens(COUNT, inner=True)
    expected, _ = run(case, strategy, tokens)
    for j in (1, 4, 6, COUNT - 1):
        other = tokens.replace(**{name: _changed(one, j, name in case.rule.gates) for name, one in tokens.items()})
        y, _ = run(case, strategy, other)
        if not same_bits(y[:, :, :j], expected[:, :, :j]):
            first = int((y != expected).flatten(3).any(-1).any(0).any(0).nonzero()[0])
            raise Failed(f"{strategy.name}: changing token {j} changes the read of token {first}")


def _changed(one: Tensor, j: int, gate: bool) -> Tensor:
    """Another value at token j: an input with sign and order of its entries turned, a gate as it was one token before.

    Lengths stay; a sign alone would not be seen by what is even in a key, such as k k^T.
    """
    other = one.clone()
    other[:, :, j] = one[:, :, j - 1] if gate else -one[:, :, j].flip(-1)
    return other


def splits_change_nothing(case: RuleCase, strategy: Strategy) -> None:
    """However a text is cut, reads and state are the same to rounding."""
    tokens = case.tokens(COUNT)
    expected, end = run(case, strategy, tokens)
    for borders in ((1, 4, 5), (3, 3, 11), tuple(range(1, COUNT))):
        state, reads = strategy.init_state(case.rule, case.params, BATCH), []
        for start, stop in zip((0, *borders), (*borders, COUNT), strict=True):
            y, state = run(case, strategy, piece(tokens, start, stop), state)
            reads.append(y)
        what = f"{strategy.name}, cut at {', '.join(map(str, borders[:4]))}"
        demand_close(f"{what}: reads", torch.cat(reads, 2), expected, EXACT)
        demand_same_state(what, state, end, EXACT)


def masked_tokens_rest(case: RuleCase, strategy: Strategy) -> None:
    """Tokens that may not write are read and leave memory and momentum as they are."""
    tokens, state = case.tokens(COUNT, inner=True), carried(case, strategy)
    write = torch.zeros(BATCH, COUNT, dtype=torch.bool)
    y, after = run(case, strategy, tokens, state, write)
    what = f"{strategy.name}, no token may write"
    demand_rest(what, case, strategy, state, after, None)
    demand_close(f"{what}: reads", y, _read_at_rest(case, strategy, tokens, state), EXACT)
    write[0] = True
    mixed, after = run(case, strategy, tokens, state, write)
    expected, _ = run(case, strategy, tokens, state)
    demand_close(f"{strategy.name}, row 0 may write", mixed[0], expected[0], EXACT)
    demand_close(f"{strategy.name}, row 1 may not: reads", mixed[1], y[1], EXACT)
    demand_rest(f"{strategy.name}, row 1 may not", case, strategy, state, after, 1)
    if not strategy.exact:
        return
    write[:, 5:8] = False
    kept = [t for t in range(COUNT) if not 5 <= t < 8]
    _, after = run(case, strategy, tokens, state, write)
    _, without = run(case, strategy, tokens.map(lambda one: one[:, :, kept]), state)
    for name in case.rule.init_state(case.params, BATCH).flat():
        what = f"{strategy.name}, tokens 5 to 7 masked against left out: {name}"
        demand_close(what, after.flat()[name][0], without.flat()[name][0], EXACT)


def _read_at_rest(case: RuleCase, strategy: Strategy, tokens: Tokens, state: State) -> Tensor:
    """Plain reads of tokens none of which writes; the strategy itself carries the state to the borders it declares."""
    shown, reads = presented(case.rule, strategy), []
    borders = crossed(getattr(strategy, "borders", ()), state.position, COUNT)
    for begin, end in pairwise((0, *borders, COUNT)):
        some = piece(tokens, begin, end)
        reads.append(shown.read(case.params, state, some.q))
        _, state = run(case, strategy, some, state, torch.zeros(BATCH, end - begin, dtype=torch.bool))
    return torch.cat(reads, 2)


def no_token_and_one_token(case: RuleCase, strategy: Strategy) -> None:
    """T = 0 returns an empty read and the same state; T = 1 is a call like any other."""
    tokens, state = case.tokens(COUNT), carried(case, strategy)
    y, after = run(case, strategy, piece(tokens, 0, 0), state)
    if y.shape[2] != 0:
        raise Failed(f"{strategy.name}: T = 0 gives reads {list(y.shape)}; expected no token")
    demand_same_state(f"{strategy.name}, T = 0", after, state)
    y, after = run(case, strategy, piece(tokens, 0, 1), state)
    if list(y.shape[:3]) != [BATCH, case.widths["H"], 1]:
        raise Failed(f"{strategy.name}: T = 1 gives reads {list(y.shape)}; expected [B, H, 1, V]")
    if after.position != state.position + 1:
        raise Failed(f"{strategy.name}: position is {after.position} after one token; expected {state.position + 1}")


def changes_nothing_in_place(case: RuleCase, strategy: Strategy) -> None:
    """Parameters, tokens and the state that came in are as they were."""
    tokens, state = case.tokens(COUNT), carried(case, strategy)
    with unchanged(params=case.params, tokens=tokens, state=state):
        run(case, strategy, tokens, state)


def is_deterministic(case: RuleCase, strategy: Strategy) -> None:
    """The same call twice gives the same bits."""
    tokens, state = case.tokens(COUNT), carried(case, strategy)
    one, first = run(case, strategy, tokens, state)
    two, second = run(case, strategy, tokens, state)
    if not same_bits(one, two):
        raise Failed(f"{strategy.name}: two equal calls differ by {relative(two, one):.2g}")
    demand_same_state(f"{strategy.name}, the same call again", second, first)


def rows_are_independent(case: RuleCase, strategy: Strategy) -> None:
    """A row's reads and state do not depend on what other rows hold."""
    tokens, state = case.tokens(COUNT, inner=True), carried(case, strategy)
    others = tokens.map(lambda one: torch.cat((one[:1], one[1:].flip(2))))
    y, after = run(case, strategy, tokens, state)
    z, other = run(case, strategy, others, state)
    if not same_bits(y[0], z[0]):
        raise Failed(f"{strategy.name}: row 0 reads something else when row 1 changes ({relative(z[0], y[0]):.2g})")
    for name, tensor in after.flat().items():
        if not same_bits(tensor[0], other.flat()[name][0]):
            raise Failed(f"{strategy.name}: state.{name} of row 0 changes with row 1")


def a_saved_state_goes_on(case: RuleCase, strategy: Strategy) -> None:
    """Saved by dotted names in the middle of a text and restored, the next tokens give the same bits."""
    tokens, state = case.tokens(COUNT), carried(case, strategy)
    stored = {name: tensor.contiguous().clone() for name, tensor in state.flat().items()}
    restored = unflat(stored, {"": state.position})
    expected, end = run(case, strategy, tokens, state)
    y, after = run(case, strategy, tokens, restored)
    if not same_bits(y, expected):
        raise Failed(f"{strategy.name}: a restored state reads something else ({relative(y, expected):.2g})")
    demand_same_state(f"{strategy.name}, restored", after, end)


def state_keeps_its_shape(case: RuleCase, strategy: Strategy) -> None:
    """State has names, shapes and dtypes that no token changes, and the batch first."""
    first = strategy.init_state(case.rule, case.params, BATCH)
    _, after = run(case, strategy, case.tokens(COUNT))
    for name, tensor in first.flat().items():
        if tensor.dim() == 0 or tensor.shape[0] != BATCH:
            raise Failed(f"{strategy.name}: state.{name} is {list(tensor.shape)}; expected the batch first")
        found = after.flat().get(name)
        if found is None or found.shape != tensor.shape or found.dtype != tensor.dtype:
            now = "gone" if found is None else f"{list(found.shape)} {found.dtype}"
            raise Failed(f"{strategy.name}: state.{name} was {list(tensor.shape)} {tensor.dtype}, then {now}")
    more = after.flat().keys() - first.flat().keys()
    if more:
        raise Failed(f"{strategy.name}: state grew {', '.join(sorted(more))}; everything must be there from the start")


def chunk_one_is_the_step(case: RuleCase, strategy: Strategy) -> None:
    """A strategy over linearised changes with chunk 1 takes every gradient where `step` takes it.

    Not so where an anchor serves several chunks by the rule's own word (`Linearised.renewed`), or where what is written
    is read late by the strategy's.
    """
    if strategy.needs is not Linearised or not hasattr(strategy, "chunk") or late(strategy):
        return
    form = case.rule.offers(Linearised)
    if not isinstance(form, Refused) and any(chunks > 1 for chunks in (form.renewed or {}).values()):
        return
    options = inspect.signature(type(strategy)).parameters
    same = {name: getattr(strategy, name) for name in options if hasattr(strategy, name)}
    strategy = type(strategy)(**{**same, "chunk": 1})
    tokens = case.tokens(COUNT, inner=True)
    expected, _ = run(case, LOOP, tokens)
    demand_close(
        f"{strategy.name} with chunk 1 against the token loop", run(case, strategy, tokens)[0], expected, EXACT
    )


def reads_come_as_late_as_declared(case: RuleCase, strategy: Strategy) -> None:
    """What a token writes is read from the next multiple of `late` tokens on, and no sooner."""
    period = late(strategy)
    if not period:
        return
    count = period + COUNT
    tokens = case.tokens(count, inner=True)
    expected, _ = run(case, strategy, tokens)
    written = {name: one for name, one in tokens.items() if name != "q"}
    for j in sorted({0, period - 1, period}):
        changed = {name: _changed(one, j, name in case.rule.gates) for name, one in written.items()}
        y, _ = run(case, strategy, tokens.replace(**changed))
        border = (j // period + 1) * period
        if not same_bits(y[:, :, :border], expected[:, :, :border]):
            raise Failed(f"{strategy.name}: token {j} is read before token {border}, the next multiple of {period}")
        if j == border - 1 and same_bits(y[:, :, border:], expected[:, :, border:]):
            raise Failed(f"{strategy.name}: token {j} is not read from token {border} on")


def refusal_has_a_reason(case: RuleCase, strategy: Strategy) -> None:
    """A rule without the form that the strategy needs is refused by CompositionError with the rule's reason."""
    assert strategy.needs is not None
    form: object = case.rule.offers(strategy.needs)  # type: ignore[type-var]
    assert isinstance(form, Refused)
    try:
        state = strategy.init_state(case.rule, case.params, BATCH)
        strategy(case.rule, case.params, case.tokens(2), state)
    except CompositionError as error:
        if form.reason not in str(error):
            raise Failed(f"{strategy.name} refuses rule {case.rule.name} without its reason: {error}") from None
        return
    raise Failed(f"{strategy.name} ran rule {case.rule.name}, which refuses the form: {form.reason}")


def gradients_equal_differences(case: RuleCase, strategy: Strategy) -> None:
    """Gradients of reads and state, along a random direction of all that came in, equal finite differences.

    Of a strategy that detaches, those of the function that takes inner gradients where they were taken: anchors held.
    """
    case, held = with_anchors_held(case, strategy)
    for what, leaves, rebuilt in _groups(case, strategy):
        random = torch.Generator().manual_seed(5)
        directions = [torch.randn(leaf.shape, generator=random, dtype=leaf.dtype) for leaf in leaves]
        tracked = [leaf.clone().requires_grad_() for leaf in leaves]
        if held is not None:
            held.first()
        total = rebuilt(tracked)  # a constant where the state is dropped, as where memories begin anew
        grads = torch.autograd.grad(total, tracked, allow_unused=True) if total.requires_grad else [None] * len(leaves)
        pairs = list(zip(grads, directions, strict=True))
        slope = sum(float((grad * direction).sum()) for grad, direction in pairs if grad is not None)
        demand_slope(f"{strategy.name}: gradient by {what}", slope, _along(rebuilt, leaves, directions, held))


def _along(
    function: Callable[[list[Tensor]], Tensor], leaves: list[Tensor], directions: list[Tensor], held: Held | None
) -> Callable[[float], float]:
    def value(step: float) -> float:
        if held is not None:
            held.again()
        return float(function([leaf + step * to for leaf, to in zip(leaves, directions, strict=True)]))

    return value


def gradients_equal_those_of_step(case: RuleCase, strategy: Strategy) -> None:
    """The gradient of an exact strategy, entry by entry, is that of autograd through the token loop."""
    if not strategy.exact or (strategy.needs is None and getattr(strategy, "pair", None) is None):
        return
    for (what, leaves, fast), (_, _, plain) in zip(_groups(case, strategy), _groups(case, LOOP), strict=True):
        tracked = [leaf.clone().requires_grad_() for leaf in leaves]
        found = torch.autograd.grad(fast(tracked), tracked, allow_unused=True)
        expected = torch.autograd.grad(plain(tracked), tracked, allow_unused=True)
        for one, two, leaf in zip(found, expected, leaves, strict=True):
            nothing = torch.zeros_like(leaf)
            demand_close(
                f"{strategy.name}: gradient by {what}",
                nothing if one is None else one,
                nothing if two is None else two,
                GRADIENT,
            )


def _groups(case: RuleCase, strategy: Strategy) -> Iterator[tuple[str, list[Tensor], Callable[[list[Tensor]], Tensor]]]:
    """Inputs, gates and state one after another: their leaves, and a scalar of all results as a function of them."""
    tokens = case.tokens(7, inner=True)
    state = carried(case, strategy if not strategy.exact else LOOP)
    names = {
        **{f"input {name}": name for name in case.rule.inputs},
        **{f"gate {name}": name for name in case.rule.gates},
    }
    for what, name in names.items():
        yield what, [tokens[name]], _by_token(case, strategy, tokens, state, name)
    flat = state.flat()
    smooth = [name for name, one in flat.items() if one.is_floating_point()]

    def from_state(leaves: list[Tensor]) -> Tensor:
        given = flat | dict(zip(smooth, leaves, strict=True))
        return _scalar(case, strategy, tokens, unflat(given, {"": state.position}))

    yield "the carried state", [flat[name] for name in smooth], from_state


def _by_token(
    case: RuleCase, strategy: Strategy, tokens: Tokens, state: State, name: str
) -> Callable[[list[Tensor]], Tensor]:
    return lambda leaves: _scalar(case, strategy, tokens.replace(**{name: leaves[0]}), state)


def _scalar(case: RuleCase, strategy: Strategy, tokens: Tokens, state: State) -> Tensor:
    """A fixed random weighting of every read and of the last state."""
    y, after = run(case, strategy, tokens, state)
    random = torch.Generator().manual_seed(9)
    total = (y * torch.randn(y.shape, generator=random, dtype=y.dtype)).sum()
    flat, names = after.flat(), case.rule.init_state(case.params, BATCH).flat()
    for tensor in (flat[f"{part}.{name}" if part else name] for part in parts(case, after) for name in names):
        total = total + (tensor * torch.randn(tensor.shape, generator=random, dtype=tensor.dtype)).sum()
    return total


LAWS: tuple[Law, ...] = (
    equals_sequential,
    chunk_one_is_the_step,
    reads_come_as_late_as_declared,
    is_causal,
    splits_change_nothing,
    masked_tokens_rest,
    no_token_and_one_token,
    changes_nothing_in_place,
    is_deterministic,
    rows_are_independent,
    a_saved_state_goes_on,
    state_keeps_its_shape,
    gradients_equal_differences,
    gradients_equal_those_of_step,
)
"""What a spreading over time must keep, whichever rule and strategy: a check each, of rules and of strategies."""
