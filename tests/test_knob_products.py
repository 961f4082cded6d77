"""Every rule that four knobs can make, against itself with inner gradients by autograd: reads, memory, outer gradients.

For each: `sequential`, and every core strategy that the derived validity gives it, equal the second writing of the
rule (`written_rules.py`) in values and in gradients entry by entry, and along a random direction finite differences.
"""

import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

import pytest
import torch

from hecate_core.composed import ComposedRule
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.parameters import initial_params
from hecate_core.protocols import Strategy
from hecate_core.records import Params, State, Tokens, unflat
from hecate_core.registry import registry
from hecate_core.shapes import Tensor
from hecate_core.strategies.chunkwise import Chunkwise
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential
from hecate_core.testing.samples import demand_close, demand_slope, relative, tokens_for
from hecate_core.widths import full_widths

from .knob_forms import ELSEWHERE, FORMS, KNOBS, Form, Product, covering, forms, products
from .written_rules import WrittenRule

COUNT, CHUNK = 3, 2  # tokens: a chunk and a ragged end
EXACT = 1e-9  # float64: the same sums in another order, over three tokens
GRADIENT = 1e-8  # float64: analytical against twice autograd
AWAY = 1e-4  # from points where a loss or a threshold has no second derivative; differences step 1e-5
LARGE = 100.0  # a draw whose memory runs away says nothing about the last digits
STEP = 0.2  # of the write range: three tokens of an l_p loss stay of order 1
LEAST_WRITE = 0.5  # end of the range at least: steps that differences can see
LEAST = 13_000  # rules, with what is registered today; fewer is a fault of this file or of the derived validity
PARTS = 6  # of the covering set

PRODUCTS, REFUSED = products()


class Case:
    """A rule with parameters, tokens and a memory in use; every leaf by a name that tells what it is."""

    def __init__(self, product: Product, rule: ComposedRule, seed: int) -> None:
        self.product, self.rule = product, rule
        square = product.structure.options.get("residual")
        self.widths = full_widths(rule, {"H": 1, "K": 3, "V": 3 if square else 4, "M": 2})
        random = torch.Generator().manual_seed(seed)
        params = initial_params(rule, self.widths, dtype=torch.float64, seed=seed)
        params = params.map(lambda one: one + 0.5 * _normal(one, random))
        tokens = tokens_for(rule, self.widths, COUNT, seed=seed, batch=1, inner=True)
        calm = 0.5 ** (seed // 15)  # where draw after draw runs away
        changes = {"v": calm * tokens.v}
        if "write" in tokens:
            high = rule.gates["write"].high
            changes["write"] = STEP * max(1.0, LEAST_WRITE / high) * tokens.write
        if "threshold" in tokens:  # below and above the errors that occur
            changes["threshold"] = 0.15 * tokens.threshold
        self.tokens: Tokens = tokens.replace(**changes)
        first = rule.init_state(params, 1)
        if "momentum" in first:
            first = first.replace(momentum=first.momentum.map(lambda one: 0.3 * _normal(one, random)))
        if rule.retention.link is not None:  # stored is any number; what starting weights lead to is checked elsewhere
            first = first.replace(memory=first.memory.map(lambda one: 1.2 * calm * _normal(one, random)))
        self.state = first
        named = {"params": params, "tokens": self.tokens, "state": self.state}
        self.leaves = {f"{what} {name}": one for what, record in named.items() for name, one in record.flat().items()}
        self.weights = [torch.randn(64, generator=random, dtype=torch.float64) for _ in range(8)]

    def tracked(self) -> dict[str, Tensor]:
        """The leaves as autograd wants them."""
        return {name: leaf.clone().requires_grad_() for name, leaf in self.leaves.items()}

    def parts(self, leaves: Mapping[str, Tensor]) -> tuple[Params, Tokens, State]:
        """The records again."""
        by: dict[str, dict[str, Tensor]] = {"params": {}, "tokens": {}, "state": {}}
        for name, leaf in leaves.items():
            what, path = name.split(" ")
            by[what][path] = leaf
        return Params.of(by["params"]), Tokens.of(by["tokens"]), unflat(by["state"], {"": 0})

    def scalar(self, y: Tensor, end: Mapping[str, Tensor]) -> Tensor:
        """A fixed random weighting of every result."""
        results = [y, *(end[name] for name in sorted(end))]
        return sum(
            ((one.flatten() * w[: one.numel()]).sum() for one, w in zip(results, self.weights, strict=False)),
            start=torch.zeros(()),
        )

    def written(
        self, leaves: Mapping[str, Tensor], chunk: int | None, *, detach: bool = False
    ) -> tuple[Tensor, dict[str, Tensor], float]:
        """The second writing, and its distance from points that have no second derivative."""
        params, tokens, state = self.parts(leaves)
        rule = WrittenRule(self.product, self.rule, params)
        return *rule.run(tokens, state, chunk, detach=detach), rule.nearest

    def run(self, strategy: Strategy, leaves: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What is registered, under a strategy."""
        params, tokens, state = self.parts(leaves)
        if strategy.needs is Linearised:
            state = state.replace(anchor=state.memory)
            if self.rule.retention.project is not None:
                state = state.replace(unprojected=torch.zeros(1, dtype=torch.bool))
        y, after = strategy(self.rule, params, tokens, state)
        return y, {name: one for name, one in after.flat().items() if not name.startswith(("anchor", "unprojected"))}


def _normal(like: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=random, dtype=like.dtype)


def strategies(rule: ComposedRule) -> Iterator[tuple[Strategy, int | None]]:
    """The token loop and the core strategies that serve the rule, with the chunk at whose start gradients are taken."""
    yield cast(Strategy, Sequential()), None
    if serves(rule, Affine):
        yield cast(Strategy, Chunkwise(chunk=CHUNK)), None
    if serves(rule, Linearised):
        yield cast(Strategy, Frozen(chunk=CHUNK)), CHUNK


def serves(rule: ComposedRule, form: Any) -> bool:
    return not isinstance(rule.offers(form), Refused)


def expected(product: Product, rule: ComposedRule, chunk: int | None) -> tuple[Case, Tensor, dict[str, Tensor], Any]:
    """A case of numbers of order 1 that come near no point without a second derivative; reads, end and gradients."""
    for seed in range(1, 60):
        case = Case(product, rule, seed)
        leaves = case.tracked()
        y, end, nearest = case.written(leaves, chunk)
        if nearest > AWAY and float(y.detach().abs().max()) < LARGE:
            return case, y, end, gradients(case, y, end, leaves)
    raise AssertionError("no draw keeps away from corners")


def check(product: Product, rule: ComposedRule) -> None:
    """Raises `Failed` with one line; or returns."""
    truth: dict[int | None, Any] = {}
    for strategy, chunk in strategies(rule):
        if chunk not in truth:
            truth[chunk] = expected(product, rule, chunk)
        case, y, end, slopes = truth[chunk]
        leaves = case.tracked()
        z, after = case.run(strategy, leaves)
        demand_close(f"{strategy.name}: reads", z, y, EXACT)
        assert after.keys() == end.keys()
        for name, one in end.items():
            demand_close(f"{strategy.name}: {name}", after[name], one, EXACT)
        found = gradients(case, z, after, leaves)
        for name, one, two in zip(leaves, found, slopes, strict=True):
            demand_close(f"{strategy.name}: gradient by {name}", one, two, GRADIENT)
        demand_along_a_line(case, strategy, found)


def gradients(case: Case, y: Tensor, end: Mapping[str, Tensor], leaves: Mapping[str, Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(case.scalar(y, end), list(leaves.values()), allow_unused=True)
    return [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves.values(), strict=True)]


def demand_along_a_line(case: Case, strategy: Strategy, slopes: list[Tensor]) -> None:
    """Finite differences along one random direction of all that came in."""
    random = torch.Generator().manual_seed(7)
    to = {n: torch.randn(one.shape, generator=random, dtype=one.dtype) for n, one in case.leaves.items()}
    slope = sum(float((one * way).sum()) for one, way in zip(slopes, to.values(), strict=True))

    def value(step: float) -> float:
        with torch.no_grad():
            return float(case.scalar(*case.run(strategy, {n: one + step * to[n] for n, one in case.leaves.items()})))

    demand_slope(f"{strategy.name}: the gradient", slope, value)


def faults(some: list[Product]) -> list[str]:
    """A line per rule that differs from its second writing."""
    found = []
    for product in some:
        try:
            check(product, PRODUCTS[product])
        except Exception as error:  # every fault is told with the rule that has it
            found.append(f"{product}: {type(error).__name__}: {error}")
    return found


@cache
def covered() -> list[Product]:
    """Every pair of forms, and once more among the rules that have an exact chunk form."""
    exact = [one for one, rule in PRODUCTS.items() if serves(rule, Affine)]
    return list(dict.fromkeys([*covering(list(PRODUCTS)), *covering(exact)]))


@pytest.mark.parametrize("part", range(PARTS))
def test_every_pair_of_forms_is_right_in_some_rule(part: int) -> None:
    assert faults(covered()[part::PARTS]) == []


def test_a_detached_anchor_is_a_constant_of_the_outer_loop() -> None:
    """`detach` changes no read, and the gradient to that of the loop whose inner gradients are taken at constants."""
    some = [one for one in covered() if serves(PRODUCTS[one], Linearised)][::10]
    cut = 0
    for product in some:
        case, y, _, whole = expected(product, PRODUCTS[product], CHUNK)
        leaves = case.tracked()
        truth = gradients(case, *case.written(leaves, CHUNK, detach=True)[:2], leaves)
        leaves = case.tracked()
        z, after = case.run(cast(Strategy, Frozen(chunk=CHUNK, detach=True)), leaves)
        demand_close(f"{product}: reads", z, y, EXACT)
        for name, one, two in zip(leaves, gradients(case, z, after, leaves), truth, strict=True):
            demand_close(f"{product}: gradient by {name}", one, two, GRADIENT)
        cut += any(relative(one, two) > 1e-6 for one, two in zip(whole, truth, strict=True))
    assert len(some) >= 30
    assert cut > len(some) // 2  # the first order is another one, where a gradient depends on the memory


@pytest.mark.soak
@pytest.mark.parametrize("bias", forms("bias"), ids=str)
@pytest.mark.parametrize("structure", forms("structure"), ids=str)
def test_every_rule_of_four_knobs_is_right(structure: Form, bias: Form) -> None:
    some = [one for one in PRODUCTS if one.structure is structure and one.bias is bias]
    assert len(some) > 50
    print(f"{structure} x {bias}: {len(some)} rules")
    assert faults(some) == []


def test_the_product_is_no_empty_one() -> None:
    """Each form is part of a valid rule, and the covering set holds every pair that occurs."""
    print(f"{len(PRODUCTS)} rules of {len(PRODUCTS) + len(REFUSED)}; {len(covered())} cover their pairs")
    assert len(PRODUCTS) >= LEAST
    assert {one for product in PRODUCTS for one in product.forms} == {one for kind in KNOBS for one in forms(kind)}
    assert len(covered()) >= len(forms("bias")) * len(forms("retention"))


@pytest.mark.parametrize("kind", KNOBS)
def test_no_option_that_chooses_a_form_is_left_out(kind: str) -> None:
    """Options of words and of yes and no have two values or more among the forms of their component."""
    for name in registry().names(kind):
        found = [one.options for one in forms(kind) if one.name == name]
        assert found, name
        for option in inspect.signature(registry().component(kind, name)).parameters.values():
            if isinstance(option.default, (str, bool)) and option.name not in ELSEWHERE:
                values = {str(options.get(option.name, option.default)) for options in found}
                assert len(values) > 1, f"{kind} {name}: {option.name} is always {values}"
    assert {key.split(" ")[1] for key in FORMS if key.startswith(kind)} <= set(registry().names(kind))
