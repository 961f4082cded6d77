"""Checks of a memory rule: what every rule must do, whatever it claims. Claims: `claims.py`."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load as parsed
from safetensors.torch import save as serialized

from hecate_core.composing import rule_of
from hecate_core.differentiation import Tape
from hecate_core.forms import Linearised, Refused
from hecate_core.gates import Gate
from hecate_core.protocols import MemoryRule, Param
from hecate_core.records import Params, State, Tokens, unflat
from hecate_core.shapes import Tensor
from hecate_core.strategies.sequential import Sequential
from hecate_core.testing import spreading
from hecate_core.testing.engine import Check, Failed, Suite, Unasked
from hecate_core.testing.gates import demand_bounded
from hecate_core.testing.members import strategies_of
from hecate_core.testing.samples import (
    BATCH,
    RuleCase,
    demand_close,
    demand_same_state,
    relative,
    same_bits,
    tokens_for,
    unchanged,
    with_gates,
)
from hecate_core.weights import Shared

RULE: Suite[RuleCase] = Suite("rule")
NEAR = 1e-9  # float64: the same numbers in another order
SINGLE = 1e-3  # float32 against float64 over a few tokens; wrong formulas are off by 1e-1
NOTHING = 1e-12  # float64: a product with exactly 1 and a sum with exactly 0


def check_rule(
    rule: Any, *, widths: Mapping[str, int] | None = None, expected: Mapping[str, str] | None = None
) -> Iterator[Check]:
    """Every check of a rule given as an instance, a name or a table; `expected` are failures with their reasons."""
    name = str(getattr(rule, "name", rule))
    return RULE.run(name, lambda: RuleCase(rule_of(rule), widths=widths), expected)


@RULE.check
def declares_what_it_needs(case: RuleCase) -> None:
    """Inputs q, k, v or others with width letters, gates as Gate, params as Param."""
    rule = case.rule
    if not isinstance(rule, MemoryRule):
        raise Failed(f"{type(rule).__name__} lacks part of the protocol MemoryRule")
    if "q" not in rule.inputs:
        raise Failed(f"inputs are {', '.join(rule.inputs)}; expected q among them")
    for what, declared, wanted in (("gates", rule.gates, Gate), ("params", rule.params, Param)):
        for name, one in declared.items():
            if not isinstance(one, wanted):
                raise Failed(f"{what}[{name!r}] is a {type(one).__name__}; expected {wanted.__name__}")
    both = set(rule.inputs) & set(rule.gates)
    if both:
        raise Failed(f"{min(both)} is an input and a gate; expected one of the two")


@RULE.check
def first_state_has_equal_rows(case: RuleCase) -> None:
    """A fresh memory at position 0, batch first, finite, every row the same."""
    state = case.fresh(3)
    if not isinstance(state, State) or state.position != 0:
        raise Failed("init_state gives no State at position 0")
    for name, tensor in state.flat().items():
        if tensor.shape[:1] != (3,):
            raise Failed(f"state.{name} is {list(tensor.shape)} for a batch of 3; expected the batch first")
        if not bool(torch.isfinite(tensor).all()) or not same_bits(tensor, tensor[:1].expand_as(tensor)):
            raise Failed(f"state.{name} is not finite or differs between rows")


@RULE.check
def step_keeps_shapes_and_counts(case: RuleCase) -> None:
    """One token: a read `[B, H, V]`, a state like the one before, position + 1."""
    state = case.fresh()
    y, after = case.rule.step(case.params, state, case.token())
    if y.dim() != 3 or y.shape[:2] != (BATCH, case.widths["H"]):
        raise Failed(f"the read of a token is {list(y.shape)}; expected [B, H, V]")
    if after.position != state.position + 1:
        raise Failed(f"position goes from {state.position} to {after.position}; expected + 1")
    demand_same_state("after a step", after.map(torch.zeros_like).replace(position=0), state.map(torch.zeros_like))


@RULE.check
def read_comes_after_the_write(case: RuleCase) -> None:
    """The read of a token is what the memory answers after that token was written."""
    state, token = case.warm(), case.token()
    y, after = case.rule.step(case.params, state, token)
    q = token.q.unsqueeze(2)
    now = case.rule.read(case.params, after, q).squeeze(2)
    form = case.rule.offers(Linearised)
    if not isinstance(form, Refused) and form.asks is not None:  # the query is made by what the token met
        made = form.asks(case.params, Shared(state.at(form.memory)), q)
        now = form.read(case.params, Shared(after.at(form.memory)), made).squeeze(2)
    if relative(y, now) < NEAR:
        return
    before = case.rule.read(case.params, state, q).squeeze(2)
    which = "the memory before its write" if relative(y, before) < NEAR else "no memory that read() knows"
    raise Failed(f"step reads {which}; expected the memory after the write")


@RULE.check
def read_writes_nothing(case: RuleCase) -> None:
    """Reading leaves state and parameters as they are, and one query at a time gives the same."""
    state, q = case.warm(), case.tokens(5).q
    with unchanged(params=case.params, state=state, q=q):
        y = case.rule.read(case.params, state, q)
    singly = torch.cat([case.rule.read(case.params, state, q[:, :, t : t + 1]) for t in range(5)], 2)
    demand_close("five reads one by one against one read of five", singly, y, NEAR)


@RULE.check
def step_changes_nothing_in_place(case: RuleCase) -> None:
    """What came in is as it was: version counters and bytes."""
    state, token = case.warm(), case.token()
    with unchanged(params=case.params, state=state, token=token):
        case.rule.step(case.params, state, token)
    with unchanged(params=case.params):
        first = case.fresh()
        case.rule.step(case.params, first, token)


@RULE.check
def every_input_and_gate_has_influence(case: RuleCase) -> None:
    """Nothing is declared that changes no read."""
    tokens, state = case.tokens(3, inner=True), case.warm()
    y, _ = Sequential()(case.rule, case.params, tokens, state)
    for name in (*case.rule.inputs, *case.rule.gates):
        gate = case.rule.gates.get(name)
        moved = tokens[name].flip(1) if gate is None else gate.low + gate.high - tokens[name]
        z, _ = Sequential()(case.rule, case.params, tokens.replace(**{name: moved}), state)
        if same_bits(y, z):
            what = "input" if gate is None else "gate"
            raise Failed(f"{what} {name} is declared and changes nothing")


@RULE.check
def gates_stay_in_their_range(case: RuleCase) -> None:
    """Used values lie in [low, high] for raw values up to 1e4 and beyond; NaN stays NaN."""
    for name, gate in case.rule.gates.items():
        demand_bounded(name, gate)


@RULE.check
def retain_one_keeps_everything(case: RuleCase) -> None:
    """With retain 1 and nothing written the memory stays; with less it changes.

    Nothing is written where the write gate is 0, by a rule without one where a token is zeros.
    """
    if "retain" not in case.rule.gates:
        raise Unasked("no gate has the role retain")
    nothing = "no write" if "write" in case.rule.gates else "a token of zeros"
    low = {name: gate.domain[0] for name, gate in case.rule.gates.items()}
    state = case.warm()
    tokens = case.tokens(1).map(lambda one: one[:, :, 0])
    if "write" not in case.rule.gates:
        tokens = tokens.replace(**{name: torch.zeros_like(tokens[name]) for name in case.rule.inputs})
    moved = []
    for retain in (1.0, 0.5):
        token = with_gates(tokens, case.rule.gates, **{**low, "retain": retain})
        _, after = case.rule.step(case.params, state, token)
        q = case.tokens(4).q
        moved.append(relative(case.rule.read(case.params, after, q), case.rule.read(case.params, state, q)))
    if not moved[0] < NEAR:
        raise Failed(f"retain 1 and {nothing} change the memory by {moved[0]:.2g}; 1 keeps all, 0 forgets all")
    if not moved[1] > 1e-6:
        raise Failed(f"retain 0.5 and {nothing} change nothing; expected that half of the memory goes")


@RULE.check
def a_write_of_zero_writes_nothing(case: RuleCase) -> None:
    """With every gate but retain at 0, the value of a token leaves no trace."""
    if "write" not in case.rule.gates or "v" not in case.rule.inputs:
        raise Unasked("no gate has the role write beside an input v")
    rest = {name: gate.domain[0] for name, gate in case.rule.gates.items() if name != "retain"}
    token, state = with_gates(case.token(), case.rule.gates, **rest), case.fresh()
    _, one = case.rule.step(case.params, state, token)
    _, two = case.rule.step(case.params, state, token.replace(v=-token.v))
    form = case.rule.offers(Linearised)
    if isinstance(form, Refused) or form.gather is None:
        demand_same_state("write 0, another value", two, one)
        return
    for path in filter(None, (form.memory, form.momentum)):  # what later tokens look back at is no memory
        demand_same_state(f"write 0, another value: {path}", two.at(path), one.at(path))


@RULE.check
def alone_as_in_company(case: RuleCase) -> None:
    """A row computed alone equals the same row in a batch."""
    tokens = case.tokens(5, inner=True)
    y, after = Sequential()(case.rule, case.params, tokens, case.fresh(BATCH))
    z, single = Sequential()(case.rule, case.params, tokens.map(lambda one: one[:1]), case.fresh(1))
    demand_close("row 0 alone against in a batch", z, y[:1], NEAR)
    demand_same_state("row 0 alone", single, after.rows(torch.tensor([0])), NEAR)


@RULE.check
def state_goes_through_a_file(case: RuleCase) -> None:
    """Saved as safetensors in the middle and read back, the next tokens give the same bits."""
    state, tokens = case.warm(), case.tokens(4)
    content = parsed(serialized({name: one.contiguous().clone() for name, one in state.flat().items()}))
    restored = unflat({name: content[name] for name in state.flat()}, {"": state.position})
    y, after = Sequential()(case.rule, case.params, tokens, state)
    z, again = Sequential()(case.rule, case.params, tokens, restored)
    if not same_bits(y, z):
        raise Failed("a state that was saved and read back reads something else")
    demand_same_state("after a file", again, after)


@RULE.check
def float32_stays_float32_and_near_float64(case: RuleCase) -> None:
    """Single precision in, single precision out, near the double result."""
    y, _ = Sequential()(case.rule, case.params, case.tokens(6, inner=True), case.fresh())
    params = case.params.map(torch.Tensor.float)
    tokens = tokens_for(case.rule, case.widths, 6, inner=True, seed=case.seed + 1, dtype=torch.float32)
    single, state = Sequential()(case.rule, params, tokens, case.rule.init_state(params, BATCH))
    wrong = {name: one.dtype for name, one in {"y": single, **state.flat()}.items() if one.dtype != torch.float32}
    if wrong:
        raise Failed(f"{min(wrong)} is {wrong[min(wrong)]} after float32 tokens; expected float32")
    demand_close("float32 against float64", single.double(), y, SINGLE)


@RULE.check
def makes_no_tensor_on_another_device(case: RuleCase) -> None:
    """All is made where the tokens lie; run on the meta device, which holds shapes and no numbers."""
    params: Params = case.params.map(lambda one: one.to("meta"))
    token: Tokens = case.token().map(lambda one: one.to("meta"))
    try:
        y, state = case.rule.step(params, case.rule.init_state(params, BATCH), token)
    except (RuntimeError, NotImplementedError) as error:
        raise Failed(f"on another device: {error}") from error
    for name, one in {"y": y, **state.flat()}.items():
        if one.device.type != "meta":
            raise Failed(f"{name} lies on {one.device} for tokens on another device")


@RULE.check
def runs_where_nothing_is_differentiated(case: RuleCase) -> None:
    """Under ambient inference mode (a Tape) a step gives the same bits: no inner gradient by autograd."""
    state, token = case.warm(), case.token()
    y, after = case.rule.step(case.params, state, token)
    try:
        with Tape():
            z, again = case.rule.step(case.params, state, token)
    except RuntimeError as error:
        raise Failed(f"needs autograd inside the step: {error}") from error
    if not same_bits(y, z) or any(not same_bits(one, again.flat()[name]) for name, one in after.flat().items()):
        raise Failed("gives something else where nothing is differentiated")


@RULE.check
def a_zero_key_is_harmless(case: RuleCase) -> None:
    """Keys and queries of only zeros give finite reads and states."""
    tokens = case.tokens(4)
    zeros = {name: torch.zeros_like(tokens[name]) for name in ("q", "k") if name in case.rule.inputs}
    y, state = Sequential()(case.rule, case.params, tokens.replace(**zeros), case.fresh())
    for name, one in {"the read": y, **state.flat()}.items():
        if not bool(torch.isfinite(one).all()):
            raise Failed(f"{name} is not finite after keys of only zeros")


@RULE.check
def bad_numbers_stay_in_their_row(case: RuleCase) -> None:
    """NaN in row 1 shows in row 1 and reaches no other; 1e30 in row 1 changes no other."""
    tokens = case.tokens(4, inner=True)
    y, _ = Sequential()(case.rule, case.params, tokens, case.fresh())
    for value in (float("nan"), 1e30):
        for name in case.rule.inputs:
            z, _ = Sequential()(
                case.rule, case.params, tokens.replace(**{name: _spoilt(tokens[name], value)}), case.fresh()
            )
            if not same_bits(z[0], y[0]):
                raise Failed(f"{name} = {value} in row 1 changes row 0")
            if value != value and bool(torch.isfinite(z[1]).all()):
                raise Failed(f"NaN in {name} vanishes: every read of its row is finite")


def _spoilt(one: Tensor, value: float) -> Tensor:
    other = one.clone()
    other[1, :, 1] = value
    return other


def _under_every_strategy(law: spreading.Law) -> None:
    """Add a law of spreading as a check of rules, under each strategy that serves the rule."""

    def check(case: RuleCase) -> None:
        for _, strategy in strategies_of(case.rule):
            law(case, strategy)

    check.__name__, check.__doc__ = law.__name__, law.__doc__
    RULE.check(check)


for _law in spreading.LAWS:
    _under_every_strategy(_law)
