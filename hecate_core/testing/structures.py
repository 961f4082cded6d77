"""Checks of a structure: how a key passes through named weights, and back."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from hecate_core.differentiation import Tape
from hecate_core.errors import InputError
from hecate_core.parameters import initial_param
from hecate_core.protocols import Structure, Trace
from hecate_core.records import Params
from hecate_core.shapes import Tensor
from hecate_core.testing.engine import Check, Failed, Suite, Unasked
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
from hecate_core.weights import Shared
from hecate_core.widths import full_widths

NEAR = 1e-9  # float64: the same numbers in another order
COUNT = 5  # tokens


class StructureCase:
    """A structure with its parameters, random weights and keys, in float64."""

    def __init__(self, structure: Structure) -> None:
        self.member = self.structure = structure
        for values in (VALUES, KEYS):
            self.widths = full_widths(structure, {"H": HEADS, "K": KEYS, "V": values, "M": SLOTS})
            random = torch.Generator().manual_seed(0)
            self.params = Params.of(
                {
                    name: initial_param(declared, self.widths, generator=random, dtype=torch.float64)
                    for name, declared in structure.params.items()
                }
            )
            self.x = torch.randn(BATCH, HEADS, COUNT, KEYS, generator=random, dtype=torch.float64)
            self.weights = {
                name: torch.randn(BATCH, HEADS, *(self.widths[letter] for letter in axes), generator=random).double()
                for name, axes in structure.layers.items()
            }
            try:
                self.trace()
            except (InputError, RuntimeError):
                if values == KEYS:
                    raise
                continue
            break

    def trace(self, weights: Mapping[str, Tensor] | None = None, x: Tensor | None = None) -> tuple[Tensor, Trace]:
        """The structure's answer to the keys."""
        seen = Shared(self.weights if weights is None else weights)
        return self.structure.trace(self.params, seen, self.x if x is None else x)

    def cotangent(self) -> Tensor:
        """A random cotangent of the prediction."""
        prediction = self.trace()[0]
        return torch.randn(prediction.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def pulled(
        self, d: Tensor, weights: Mapping[str, Tensor] | None = None, x: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The pullback of d."""
        seen = self.weights if weights is None else weights
        back = self.structure.pullback(self.params, Shared(seen), self.trace(seen, x)[1], d)
        return dict(back)


STRUCTURE: Suite[StructureCase] = Suite("structure")


def check_structure(structure: Any, *, expected: Mapping[str, str] | None = None) -> Iterator[Check]:
    """Every check of a structure given as an instance, a name or a table."""
    name = structure if isinstance(structure, str) else type(structure).__name__
    return STRUCTURE.run(str(name), lambda: StructureCase(component_of("structure", structure)), expected)


@STRUCTURE.check
def trace_names_every_weight(case: StructureCase) -> None:
    """The trace has an input and an output per declared weight, of the declared widths; the output is W times input."""
    prediction, trace = case.trace()
    if prediction.shape != (BATCH, HEADS, COUNT, case.widths["V"]):
        raise Failed(f"the prediction is {list(prediction.shape)}; expected [B, H, T, V]")
    if set(trace) != set(case.structure.layers):
        raise Failed(f"the trace names {', '.join(trace)}; declared are {', '.join(case.structure.layers)}")
    for name, (x, output) in trace.items():
        demand_close(f"output of {name} against weights.apply of its input", output, x @ case.weights[name].mT, NEAR)


@STRUCTURE.check
def every_weight_has_a_start(case: StructureCase) -> None:
    """`params` holds the first value of every weight, with its axes."""
    for name, axes in case.structure.layers.items():
        declared = case.structure.params.get(name)
        if declared is None:
            raise Failed(f"weight {name} has no start in params")
        if declared.axes.split() != ["H", *axes]:
            raise Failed(f'weight {name} starts with axes "{declared.axes}"; expected "H {" ".join(axes)}"')


@STRUCTURE.check
def a_linear_structure_is_one_matrix(case: StructureCase) -> None:
    """`linear` promises that the prediction is its only weight applied to the key."""
    if not case.structure.linear:
        raise Unasked("not claimed")
    if len(case.structure.layers) != 1:
        raise Failed(f"claims to be linear with {len(case.structure.layers)} weights; expected one")
    (weight,) = case.weights.values()
    demand_close("the prediction against W k", case.trace()[0], case.x @ weight.mT, NEAR)


@STRUCTURE.check
def pullback_equals_autograd(case: StructureCase) -> None:
    """The cotangent of every weight's output, times its input, is autograd's gradient by the weight."""
    d, pulled = case.cotangent(), case.pulled(case.cotangent())
    leaves = {name: one.clone().requires_grad_() for name, one in case.weights.items()}
    prediction, trace = case.trace(leaves)
    grads = torch.autograd.grad((d * prediction).sum(), list(leaves.values()))
    for name, grad in zip(leaves, grads, strict=True):
        if name not in pulled:
            raise Failed(f"pullback says nothing about weight {name}")
        demand_close(f"pullback of {name} against autograd", pulled[name].mT @ trace[name][0].detach(), grad, NEAR)


@STRUCTURE.check
def pullback_needs_no_autograd(case: StructureCase) -> None:
    """Under ambient inference mode (a Tape) the pullback gives the same bits."""
    d = case.cotangent()
    expected = case.pulled(d)
    try:
        with Tape():
            found = case.pulled(d)
    except RuntimeError as error:
        raise Failed(f"needs autograd: {error}") from error
    for name, one in expected.items():
        if not same_bits(found[name], one):
            raise Failed(f"pullback of {name} gives something else where nothing is differentiated")


@STRUCTURE.check
def pullback_has_a_right_gradient(case: StructureCase) -> None:
    """The outer loop differentiates the pullback by weights, keys and cotangent: against finite differences."""
    random = torch.Generator().manual_seed(6)
    leaves = [case.x, case.cotangent(), *case.weights.values()]
    directions = [torch.randn(one.shape, generator=random, dtype=torch.float64) for one in leaves]

    def scalar(moved: list[Tensor]) -> Tensor:
        weights = dict(zip(case.weights, moved[2:], strict=True))
        back = case.pulled(moved[1], weights, moved[0])
        return torch.stack([(one * (3.0 + torch.arange(one.shape[-1]))).sum() for one in back.values()]).sum()

    tracked = [one.clone().requires_grad_() for one in leaves]
    grads = torch.autograd.grad(scalar(tracked), tracked, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True) if g is not None)
    pairs = list(zip(leaves, directions, strict=True))
    demand_slope("gradient of the pullback", slope, lambda step: float(scalar([one + step * d for one, d in pairs])))


@STRUCTURE.check
def tokens_do_not_see_each_other(case: StructureCase) -> None:
    """Prediction and pullback of a token depend on that token alone."""
    other = case.x.clone()
    other[:, :, 3:] *= -2.0
    d = case.cotangent()
    demand_close("prediction of token 0 to 2", case.trace(x=other)[0][:, :, :3], case.trace()[0][:, :, :3], NEAR)
    one, two = case.pulled(d), case.pulled(d, x=other)
    for name in one:
        demand_close(f"pullback of {name}, tokens 0 to 2", two[name][:, :, :3], one[name][:, :, :3], NEAR)


@STRUCTURE.check
def changes_nothing_in_place(case: StructureCase) -> None:
    """Parameters, weights, keys, trace and cotangent are as they were."""
    d = case.cotangent()
    trace = case.trace()[1]
    flat = {f"{name}_{part}": one for name, pair in trace.items() for part, one in zip("io", pair, strict=True)}
    with unchanged(params=case.params, x=case.x, d=d, **case.weights, **flat):
        case.trace()
        case.structure.pullback(case.params, Shared(case.weights), trace, d)


@STRUCTURE.check
def same_call_same_bits(case: StructureCase) -> None:
    """Twice the same prediction and pullback."""
    d = case.cotangent()
    one, two = case.pulled(d), case.pulled(d)
    if not same_bits(case.trace()[0], case.trace()[0]) or any(not same_bits(one[n], two[n]) for n in one):
        raise Failed("two equal calls differ")
