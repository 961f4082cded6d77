"""Checks of what a rule claims to offer: its forms, proved against `step` by numbers."""

from typing import Any

import torch

from hecate_core.composed import ComposedRule
from hecate_core.forms import Affine, Factors, Linearised, Refused
from hecate_core.records import State, Tokens
from hecate_core.shapes import Tensor
from hecate_core.testing.engine import Failed, Unasked
from hecate_core.testing.rules import NEAR, RULE
from hecate_core.testing.samples import RuleCase, demand_close, same_bits, unchanged, with_gates
from hecate_core.weights import Kept, Shared, along


def _affine(case: RuleCase) -> Affine:
    form = case.rule.offers(Affine)
    if isinstance(form, Refused):
        raise Unasked(f"no affine form: {form.reason}")
    return form


def _linearised(case: RuleCase) -> Linearised:
    form = case.rule.offers(Linearised)
    if isinstance(form, Refused):
        raise Unasked(f"no linearised form: {form.reason}")
    return form


def gathered(case: RuleCase, form: Affine | Linearised, tokens: Tokens, state: State | None = None) -> Tokens:
    """The tokens with what a form has them see of earlier ones, after `state` (default: a fresh one)."""
    if form.gather is None:
        return tokens
    return form.gather(case.params, case.fresh() if state is None else state, tokens, None)[0]


@RULE.check
def a_refused_form_has_a_reason(case: RuleCase) -> None:
    """`offers` answers with the form or with words."""
    for form in (Affine, Linearised):
        answer: object = case.rule.offers(form)  # type: ignore[type-var]
        if isinstance(answer, Refused):
            if not answer.reason.strip():
                raise Failed(f"{form.__name__} is refused without a reason")
        elif not isinstance(answer, form):
            raise Failed(f"asked for {form.__name__}, offers {type(answer).__name__}; expected the form or Refused")


@RULE.check
def affine_write_term_reproduces_step(case: RuleCase) -> None:
    """From an empty memory: M = inject write v k^T, and S = write v k^T."""
    form, state = _affine(case), case.fresh().map(torch.zeros_like)
    _demand_recurrence(case, form, state, case.tokens(1, inner=True), "from an empty memory")


@RULE.check
def affine_decay_and_erase_terms_reproduce_step(case: RuleCase) -> None:
    """With no value and no momentum: M goes to keep M - inject erase M k k^T."""
    form, state = _affine(case), _random(case)
    if form.momentum is not None:
        state = state.put(form.momentum, torch.zeros_like(state.at(form.momentum)))
    tokens = case.tokens(1, inner=True)
    _demand_recurrence(case, form, state, tokens.replace(v=torch.zeros_like(tokens.v)), "with no value")


@RULE.check
def affine_momentum_term_reproduces_step(case: RuleCase) -> None:
    """With no value and an empty memory: S goes to momentum S, and M = inject S."""
    form, state = _affine(case), _random(case)
    if form.momentum is None:
        raise Unasked("no momentum")
    tokens = case.tokens(1, inner=True)
    tokens = tokens.replace(v=torch.zeros_like(tokens.v))
    state = state.put(form.memory, torch.zeros_like(state.at(form.memory)))
    _demand_recurrence(case, form, state, tokens, "from momentum alone")


@RULE.check
def affine_coefficients_reproduce_step(case: RuleCase) -> None:
    """Everything at once, at ordinary gates and with every gate at 0 and at 1."""
    form, state = _affine(case), _random(case)
    tokens = case.tokens(1, inner=True)
    _demand_recurrence(case, form, state, tokens, "from a random memory")
    for value in (0.0, 1.0):
        ends = with_gates(tokens, case.rule.gates, **dict.fromkeys(case.rule.gates, value))
        _demand_recurrence(case, form, state, ends, f"with every gate at {value:g}")


@RULE.check
def affine_coefficients_see_their_own_token_alone(case: RuleCase) -> None:
    """Coefficients of a token do not depend on its neighbours."""
    form, tokens = _affine(case), gathered(case, _affine(case), case.tokens(5, inner=True))
    whole, first = form.coefficients(case.params, tokens), 2 * form.group
    with unchanged(params=case.params, tokens=tokens):
        other = form.coefficients(
            case.params, tokens.map(lambda one: torch.cat((one[:, :, :2], one[:, :, 2:] * 0.5), 2))
        )
    for name, one, two in zip(whole._fields, whole, other, strict=True):
        if one is not None and two is not None and not same_bits(one[:, :, :first], two[:, :, :first]):
            raise Failed(f"coefficient {name} of a token changes with later tokens")


def _random(case: RuleCase) -> State:
    """A state of the rule's shapes with random numbers: affine memories are real matrices."""
    random = torch.Generator().manual_seed(3)
    return case.fresh().map(lambda one: torch.randn(one.shape, generator=random, dtype=one.dtype))


def _demand_recurrence(case: RuleCase, form: Affine, state: State, tokens: Tokens, where: str) -> None:
    """The recurrence of the op `affine` by hand against `step`, over one token: all changes of its group in a row."""
    given: Any = form.coefficients(case.params, gathered(case, form, tokens, state))
    memory = state.at(form.memory)
    surprise = torch.zeros_like(memory) if form.momentum is None else state.at(form.momentum)
    grown = memory
    for i in range(form.group):
        c = given._make(None if one is None else one[:, :, i : i + 1] for one in given)
        u = _wide(c.write) * c.v
        if c.erase is not None:
            u = u - (grown @ (_wide(c.erase) * c.k).mT).mT
        move = u.mT @ c.k
        momentum, inject = getattr(c, "momentum", None), getattr(c, "inject", None)  # one op has neither
        if momentum is not None:
            move = surprise = momentum[..., None] * surprise + move
        if inject is not None:
            move = inject[..., None] * move
        grown = (c.keep[..., None] if c.keep.dim() == 3 else c.keep) * grown + move
    y, after = case.rule.step(case.params, state, tokens.map(lambda one: one[:, :, 0]))
    demand_close(f"{where}: the memory of step against keep M + inject S", after.at(form.memory), grown, NEAR)
    if form.momentum is not None:
        demand_close(f"{where}: the momentum of step", after.at(form.momentum), surprise, NEAR)
    demand_close(f"{where}: the read of step against M q", y, (grown @ c.q.mT).squeeze(-1), NEAR)


def _wide(rate: Tensor) -> Tensor:
    return rate.unsqueeze(-1) if rate.dim() == 3 else rate


@RULE.check
def linearised_factors_reproduce_step_at_the_anchor(case: RuleCase) -> None:
    """With the anchor where the memory is, keep A + inject S from the factors is what `step` stores and reads."""
    form = _linearised(case)
    for state in (case.warm(), case.fresh()):
        tokens = case.tokens(1, inner=True)
        factors = form.factors(case.params, state.at(form.memory), gathered(case, form, tokens, state))
        stored = _grown(form, state, factors)
        if form.project is not None:
            stored = stored.map(form.project)
        y, after = case.rule.step(case.params, state, tokens.map(lambda one: one[:, :, 0]))
        for name, tensor in stored.items():
            demand_close(f"step's {name} against the factors", after.at(form.memory)[name], tensor, NEAR)
        weights = stored if form.link is None else stored.map(form.link)
        q, seen = tokens.q, state.at(form.memory)
        if form.asks is not None:
            q = form.asks(case.params, Shared(seen if form.link is None else seen.map(form.link)), q)
        read = form.read(case.params, Shared(weights), q).squeeze(2)
        demand_close("step's read against the form's read", y, read, NEAR)


def _grown(form: Linearised, state: State, factors: Factors) -> State:
    """What is stored after one token: all changes of its group in a row."""
    memory = {}
    for name, (u, x) in factors.updates.items():
        grown = state.at(form.memory)[name]
        erase = None if factors.erase is None else factors.erase.get(name)
        surprise = None if form.momentum is None else state.at(form.momentum)[name]
        for i in range(form.group):
            now = slice(i, i + 1)
            write = u[:, :, now] if erase is None else u[:, :, now] - erase[:, :, now] @ grown.mT
            move = write.mT @ x[:, :, now]
            if factors.momentum is not None and surprise is not None:
                move = surprise = factors.momentum[:, :, now, None] * surprise + move
            if form.step_map is not None:
                move = form.step_map(move)
            if factors.inject is not None:
                move = factors.inject[:, :, now, None] * move
            keep = factors.keep[:, :, now]
            grown = (keep[..., None] if keep.dim() == 3 else keep.mT if form.axis == "row" else keep) * grown + move
        memory[name] = grown
    return State.of(memory)


@RULE.check
def linearised_factors_equal_the_inner_gradient(case: RuleCase) -> None:
    """u x^T is -write times autograd's gradient of the inner loss at the anchor, minus erase times the outputs."""
    form, rule = _linearised(case), case.rule
    if not isinstance(rule, ComposedRule):
        raise Unasked("no knobs: the factors are compared with step alone")
    tokens, stored = case.tokens(1, inner=True), case.warm().at(form.memory)
    weights = stored if form.link is None else stored.map(form.link)
    leaves = {name: one.detach().clone().requires_grad_() for name, one in weights.items()}
    seen: Shared | Kept = Shared(leaves)
    forgets_along = getattr(rule.retention, "erase", None)
    if rule.algorithm.at == "kept":
        if forgets_along is not None:
            raise Unasked("an error at a memory that forgot along the input: no gradient by what is stored")
        seen = Kept(seen, rule.retention.keep(tokens), rule.retention.axis)
    prediction, trace = rule.structure.trace(case.params, seen, tokens.k)
    d = rule.bias.cotangent(prediction.detach(), tokens.v, tokens)
    grads = torch.autograd.grad((d * prediction).sum(), list(leaves.values()))
    rates, factors = rule.algorithm.rates(tokens), form.factors(case.params, stored, tokens)
    moves = factors.moves(stored)
    for name, grad in zip(leaves, grads, strict=True):
        if rule.algorithm.at == "kept":  # by the kept weights, not by the stored ones
            grad = _by_the_kept(grad, rule.retention.keep(tokens), rule.retention.axis)
        expected = -rates.write[..., None] * grad
        if rates.erase is not None:
            expected = expected - rates.erase[..., None] * (trace[name][1].mT @ trace[name][0])
        if factors.erase is not None and forgets_along is not None:
            x, z = trace[name]
            expected = expected - z.mT @ along(forgets_along(tokens), x)
        demand_close(f"the factors of {name} against -write x gradient", moves[name], expected.detach(), NEAR)


def _by_the_kept(grad: Tensor, keep: Tensor, axis: str) -> Tensor:
    """The chain rule undone: from the stored weights to what the decay leaves of them."""
    kept = keep[..., None] if axis == "scalar" else keep.mT if axis == "row" else keep
    return grad / kept


@RULE.check
def linearised_factors_see_their_own_token_alone(case: RuleCase) -> None:
    """At one anchor, a token's factors do not depend on its neighbours."""
    form, tokens = _linearised(case), gathered(case, _linearised(case), case.tokens(5, inner=True))
    anchor, second = case.warm().at(form.memory), slice(form.group, 2 * form.group)
    with unchanged(params=case.params, tokens=tokens, anchor=anchor):
        whole = form.factors(case.params, anchor, tokens)
    alone = form.factors(case.params, anchor, tokens.map(lambda one: one[:, :, 1:2]))
    for name, (u, x) in whole.updates.items():
        demand_close(f"u of {name}, a token alone", alone.updates[name][0], u[:, :, second], NEAR)
        demand_close(f"x of {name}, a token alone", alone.updates[name][1], x[:, :, second], NEAR)


@RULE.check
def linearised_claim_of_exactness_holds(case: RuleCase) -> None:
    """A form that calls itself exact has factors that do not depend on the anchor."""
    form, tokens = _linearised(case), gathered(case, _linearised(case), case.tokens(3, inner=True))
    if not form.exact:
        raise Unasked("not claimed")
    one, two = (form.factors(case.params, state.at(form.memory), tokens) for state in (case.fresh(), case.warm()))
    for name in one.updates:
        demand_close(f"u of {name} at another anchor", two.updates[name][0], one.updates[name][0], NEAR)


@RULE.check
def linearised_pace_is_that_of_the_factors(case: RuleCase) -> None:
    """Decays that are given without an anchor are those of the factors."""
    form, tokens = _linearised(case), gathered(case, _linearised(case), case.tokens(3, inner=True))
    pace = getattr(form, "pace", None)
    if pace is None:
        raise Unasked("not offered")
    given, factors = pace(tokens), form.factors(case.params, case.warm().at(form.memory), tokens)
    for name in ("keep", "momentum", "inject"):
        one, two = getattr(given, name), getattr(factors, name)
        if (one is None) != (two is None) or (one is not None and not same_bits(one, two)):
            raise Failed(f"pace.{name} is not the {name} of the factors")
