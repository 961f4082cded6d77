"""Checks of biases, retentions and algorithms: the knobs that work on predictions, memories and rates."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch

from hecate_core.gates import Gate
from hecate_core.protocols import Algorithm, AttentionalBias, Rates, Retention
from hecate_core.records import Tokens
from hecate_core.shapes import Tensor
from hecate_core.testing.engine import Check, Failed, Suite, Unasked
from hecate_core.testing.gates import demand_bounded
from hecate_core.testing.members import component_of
from hecate_core.testing.samples import (
    BATCH,
    HEADS,
    KEYS,
    SLOTS,
    VALUES,
    demand_close,
    demand_slope,
    same_bits,
    unchanged,
)

COUNT = 5  # tokens
NEAR = 1e-9  # float64: the same numbers in another order
DIFFERENCE = 1e-5  # central differences of step 1e-5
WIDTHS = {"K": KEYS, "V": VALUES, "M": SLOTS, "F": 5}
AXES = ("none", "scalar", "column", "row")

KnobT = TypeVar("KnobT")  # AttentionalBias, Retention or Algorithm


class KnobCase(Generic[KnobT]):
    """A knob with tokens for the gates that it declares, in float64."""

    def __init__(self, knob: KnobT) -> None:
        self.member = self.knob = knob
        gates: Mapping[str, Gate] = knob.gates  # type: ignore[attr-defined]
        random = torch.Generator().manual_seed(0)
        shape = (BATCH, HEADS, COUNT)
        self.prediction: Tensor = torch.randn(*shape, VALUES, generator=random, dtype=torch.float64)
        self.v: Tensor = torch.randn(*shape, VALUES, generator=random, dtype=torch.float64)
        made = {"q": torch.randn(*shape, KEYS, generator=random, dtype=torch.float64)}
        made |= {"k": torch.randn(*shape, KEYS, generator=random, dtype=torch.float64), "v": self.v}
        for name, gate in gates.items():
            wide = shape if gate.width is None else (*shape, WIDTHS[gate.width])
            share = torch.rand(wide, generator=random, dtype=torch.float64)
            made[name] = gate.low + (gate.high - gate.low) * share
        self.tokens = Tokens.of(made)
        self.matrix = torch.randn(BATCH, HEADS, VALUES, KEYS, generator=random, dtype=torch.float64)


BIAS: Suite[KnobCase[AttentionalBias]] = Suite("bias")
RETENTION: Suite[KnobCase[Retention]] = Suite("retention")
ALGORITHM: Suite[KnobCase[Algorithm]] = Suite("algorithm")


def check_bias(bias: Any, *, expected: Mapping[str, str] | None = None) -> Iterator[Check]:
    """Every check of an attentional bias given as an instance, a name or a table."""
    return BIAS.run(_named(bias), lambda: KnobCase(component_of("bias", bias)), expected)


def check_retention(retention: Any, *, expected: Mapping[str, str] | None = None) -> Iterator[Check]:
    """Every check of a retention given as an instance, a name or a table."""
    return RETENTION.run(_named(retention), lambda: KnobCase(component_of("retention", retention)), expected)


def check_algorithm(algorithm: Any, *, expected: Mapping[str, str] | None = None) -> Iterator[Check]:
    """Every check of an algorithm given as an instance, a name or a table."""
    return ALGORITHM.run(_named(algorithm), lambda: KnobCase(component_of("algorithm", algorithm)), expected)


def _named(knob: Any) -> str:
    return knob if isinstance(knob, str) else type(knob).__name__


def _in_every_suite(function: Callable[[KnobCase[Any]], None]) -> Callable[[KnobCase[Any]], None]:
    for suite in (BIAS, RETENTION, ALGORITHM):
        suite.check(function)
    return function


@_in_every_suite
def gates_stay_in_their_range(case: KnobCase[Any]) -> None:
    """Used values lie in [low, high] for raw values up to 1e4 and beyond; NaN stays NaN."""
    for name, gate in case.knob.gates.items():
        demand_bounded(name, gate)


def _results(case: KnobCase[Any], tokens: Tokens) -> dict[str, Tensor]:
    """What the knob makes of tokens, by name."""
    knob = case.knob
    if hasattr(knob, "cotangent"):
        return {"cotangent": knob.cotangent(case.prediction, tokens.v, tokens)}
    if hasattr(knob, "keep"):
        return {"keep": knob.keep(tokens)}
    return {name: one for name, one in knob.rates(tokens)._asdict().items() if one is not None}


@_in_every_suite
def tokens_and_rows_do_not_see_each_other(case: KnobCase[Any]) -> None:
    """What comes out for a token depends on that token alone."""
    other = case.tokens.map(lambda one: _tail_changed(one))
    changed = _results(case, other)
    for name, one in _results(case, case.tokens).items():
        if not same_bits(one[0, :, :3], changed[name][0, :, :3]):
            raise Failed(f"{name} of tokens 0 to 2 of row 0 changes with other tokens or rows")


def _tail_changed(one: Tensor) -> Tensor:
    other = one.clone()
    other[:, :, 3:] = one[:, :, :2]
    other[1] = one[0]
    return other


@_in_every_suite
def same_call_same_bits_and_nothing_in_place(case: KnobCase[Any]) -> None:
    """Twice the same; what came in is as it was."""
    with unchanged(tokens=case.tokens, prediction=case.prediction, matrix=case.matrix):
        one, two = _results(case, case.tokens), _results(case, case.tokens)
        for function in _maps(case.knob).values():
            function(case.matrix)
    for name in one:
        if not same_bits(one[name], two[name]):
            raise Failed(f"{name}: two equal calls differ")


def _maps(knob: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """Functions of a whole matrix that a knob brings."""
    return {name: getattr(knob, name) for name in ("link", "project", "step_map") if getattr(knob, name, None)}


@_in_every_suite
def maps_keep_shapes_and_have_right_gradients(case: KnobCase[Any]) -> None:
    """Link, projection and step map keep shape and dtype, treat every matrix alone, and differentiate truly."""
    for name, function in _maps(case.knob).items():
        out = function(case.matrix)
        if out.shape != case.matrix.shape or out.dtype != case.matrix.dtype:
            raise Failed(f"{name} makes {list(out.shape)} {out.dtype} of {list(case.matrix.shape)} {case.matrix.dtype}")
        demand_close(f"{name} of one matrix alone", function(case.matrix[1:, 1:]), out[1:, 1:], NEAR)
        weighting = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        _demand_slope(name, lambda one, f=function, w=weighting: (f(one) * w).sum(), case.matrix)  # type: ignore[misc]


def _demand_slope(what: str, scalar: Callable[[Tensor], Tensor], at: Tensor) -> None:
    direction = torch.randn(at.shape, generator=torch.Generator().manual_seed(8), dtype=at.dtype)
    leaf = at.clone().requires_grad_()
    value = scalar(leaf)
    slope = 0.0
    if value.requires_grad:
        (grad,) = torch.autograd.grad(value, leaf)
        slope = float((grad * direction).sum())
    demand_slope(f"gradient of {what}", slope, lambda step: float(scalar(at + step * direction)))


@BIAS.check
def cotangent_is_a_gradient(case: KnobCase[AttentionalBias]) -> None:
    """The cotangent is the gradient of some loss: its Jacobian by the prediction is symmetric."""
    v, tokens = case.v[:1, :1, :1], case.tokens.map(lambda one: one[:1, :1, :1])

    def cotangent(prediction: Tensor) -> Tensor:
        made: Tensor = case.knob.cotangent(prediction.view(1, 1, 1, -1), v, tokens)
        return made.flatten()

    if cotangent(case.prediction[0, 0, 0]).shape != (VALUES,):
        raise Failed("cotangent changes the shape of the prediction")
    steps = 1e-5 * torch.eye(VALUES, dtype=torch.float64)
    at = case.prediction[0, 0, 0]
    jacobian = torch.stack([(cotangent(at + step) - cotangent(at - step)) / 2e-5 for step in steps], 1)
    demand_close("the Jacobian of the cotangent against its transpose", jacobian.mT, jacobian, DIFFERENCE)


@BIAS.check
def cotangent_equals_the_gradient_of_its_loss(case: KnobCase[AttentionalBias]) -> None:
    """Where the bias gives its loss, autograd of the loss is the cotangent."""
    loss = getattr(case.knob, "loss", None)
    if loss is None:
        raise Unasked("gives no loss")
    leaf = case.prediction.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf, case.v, case.tokens).sum(), leaf)
    demand_close("cotangent against autograd of the loss", case.knob.cotangent(leaf, case.v, case.tokens), grad, NEAR)


@BIAS.check
def affine_claim_reproduces_the_cotangent(case: KnobCase[AttentionalBias]) -> None:
    """`affine = (p, r)` means p prediction - r v."""
    if case.knob.affine is None:
        raise Unasked("not claimed")
    p, r = case.knob.affine
    found = case.knob.cotangent(case.prediction, case.v, case.tokens)
    demand_close(f"cotangent against {p:g} prediction - {r:g} v", found, p * case.prediction - r * case.v, NEAR)


@BIAS.check
def cotangent_has_a_right_gradient(case: KnobCase[AttentionalBias]) -> None:
    """The outer loop differentiates the cotangent by the prediction: against finite differences."""
    weighting = torch.randn(case.v.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    _demand_slope(
        "the cotangent", lambda one: (case.knob.cotangent(one, case.v, case.tokens) * weighting).sum(), case.prediction
    )


@RETENTION.check
def keep_has_the_shape_of_its_axis(case: KnobCase[Retention]) -> None:
    """`[B, H, T]` for a scalar, one per key for a column, one per value for a row."""
    axis, keep = case.knob.axis, case.knob.keep(case.tokens)
    if axis not in AXES:
        raise Failed(f'axis = "{axis}"; expected {", ".join(AXES)}')
    wanted = [BATCH, HEADS, COUNT] + {"column": [KEYS], "row": [VALUES]}.get(axis, [])
    if list(keep.shape) != wanted:
        raise Failed(f"keep is {list(keep.shape)} with axis {axis}; expected {wanted}")


@RETENTION.check
def keep_lies_between_zero_and_one(case: KnobCase[Retention]) -> None:
    """A decay multiplies what is stored by at least 0 and at most 1, at every value of its gates."""
    for share in (0.0, 0.5, 1.0):
        ends = {
            name: torch.full_like(case.tokens[name], g.low + share * (g.high - g.low))
            for name, g in case.knob.gates.items()
        }
        keep = case.knob.keep(case.tokens.replace(**ends))
        if not bool(((keep >= 0.0) & (keep <= 1.0)).all()):
            raise Failed(f"keep goes from {float(keep.min()):.4g} to {float(keep.max()):.4g}; expected [0, 1]")


@RETENTION.check
def more_retain_keeps_more(case: KnobCase[Retention]) -> None:
    """The gate `retain` at 1 keeps everything, at 0 nothing; between them it rises."""
    if "retain" not in case.knob.gates:
        raise Unasked("no gate has the role retain")
    keeps = [
        case.knob.keep(case.tokens.replace(retain=torch.full_like(case.tokens.retain, value)))
        for value in (0.2, 0.6, 1.0)
    ]
    if not bool(((keeps[0] < keeps[1]) & (keeps[1] < keeps[2])).all()):
        raise Failed("keep does not rise with retain; retain 1 keeps all, 0 forgets all")
    demand_close("keep at retain 1 against 1", keeps[2], torch.ones_like(keeps[2]), NEAR)


@RETENTION.check
def inverse_undoes_the_link(case: KnobCase[Retention]) -> None:
    """What is stored for given weights leads back to them."""
    knob = case.knob
    if knob.link is None:
        raise Unasked("no link")
    if knob.inverse is None:
        raise Unasked("no inverse: parameters are what is stored")
    weights = knob.link(case.matrix)
    demand_close("link(inverse(W)) against W", knob.link(knob.inverse(weights)), weights, NEAR)


@RETENTION.check
def projecting_twice_is_projecting_once(case: KnobCase[Retention]) -> None:
    """What has been projected lies in the domain already."""
    project = case.knob.project
    if project is None:
        raise Unasked("no projection")
    once = project(case.matrix)
    if case.knob.domain == "real":
        raise Unasked("a step inside the real matrices, not a projection on a domain")
    demand_close("project(project(W)) against project(W)", project(once), once, NEAR)


@RETENTION.check
def weights_lie_in_their_domain(case: KnobCase[Retention]) -> None:
    """Domain "simplex": at least 0, along some axis all sums are equal; "sphere": all norms are."""
    knob = case.knob
    to = knob.link or knob.project
    if to is None or knob.domain not in ("simplex", "sphere", "positive"):
        raise Unasked(f'nothing to show for domain "{knob.domain}"')
    weights = to(case.matrix)
    if knob.domain != "sphere" and not bool((weights >= 0).all()):
        raise Failed(f'domain is "{knob.domain}" and a weight is {float(weights.min()):.3g}; expected >= 0')
    sums = [(weights if knob.domain == "simplex" else weights.square()).sum(axis) for axis in (-1, -2, (-1, -2))]
    if knob.domain != "positive" and not any(float((one - one.flatten()[0]).abs().max()) < NEAR for one in sums):
        raise Failed(f'domain is "{knob.domain}" and no axis has sums that are all equal')


@ALGORITHM.check
def rates_are_what_was_declared(case: KnobCase[Algorithm]) -> None:
    """Momentum and erase where declared and nowhere else; every rate `[B, H, T]` and not negative."""
    knob, rates = case.knob, case.knob.rates(case.tokens)
    if not isinstance(rates, Rates):
        raise Failed(f"rates gives a {type(rates).__name__}; expected Rates")
    if knob.at not in ("raw", "kept"):
        raise Failed(f'at = "{knob.at}"; expected "raw" or "kept"')
    for what, claimed, found in (("momentum", knob.has_momentum, rates.momentum), ("erase", knob.erases, rates.erase)):
        if claimed is not (found is not None):
            raise Failed(
                f"{what} is {'declared' if claimed else 'not declared'} and {'absent' if claimed else 'there'}"
            )
    for name, one in rates._asdict().items():
        if one is None:
            continue
        if list(one.shape) != [BATCH, HEADS, COUNT]:
            raise Failed(f"rate {name} is {list(one.shape)}; expected [B, H, T]")
        if not bool((one >= 0).all()):
            raise Failed(f"rate {name} is {float(one.min()):.3g}; expected >= 0")


@ALGORITHM.check
def a_write_gate_of_zero_is_a_rate_of_zero(case: KnobCase[Algorithm]) -> None:
    """The gate `write` at 0 takes no step, and more of it takes a larger one."""
    if "write" not in case.knob.gates:
        raise Unasked("no gate has the role write")
    write = case.tokens.write
    given = [case.knob.rates(case.tokens.replace(write=torch.full_like(write, value))) for value in (0.0, 0.1, 0.2)]
    rates = [one.write if one.inject is None else one.write * one.inject for one in given]
    if bool((rates[0] != 0).any()) or not bool((rates[1] < rates[2]).all()):
        raise Failed("the step does not rise from 0 with the gate write")
