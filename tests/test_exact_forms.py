"""Exact chunk forms against the token loop, for every registered rule that offers `Affine`."""

import pytest
import torch

from hecate_core import memory
from hecate_core.composing import rule_of
from hecate_core.records import State
from hecate_core.shapes import Tensor

from .sequences import AFFINE_RULES, relative, sequence

LENGTHS = (0, 1, 7, 63, 64, 100, 1000)
CHUNKS = (1, 16, 64, 100)
EXACT = 1e-10  # float64: two orders of the same sums
GRADIENT = 1e-9  # float64: against autograd of the token loop
DIFFERENCE = 1e-6  # central differences of step 1e-6 lose half the digits
SINGLE = 2e-5  # float32 at T 1000, relative to float64: 1000 roundings of 6e-8 with a margin of 3
HALF = 2e-2  # bfloat16 inputs carry 8 bits; state and sums are float32


def run(rule: str, inputs: dict[str, Tensor], gates: dict[str, Tensor], **options: object) -> tuple[Tensor, State]:
    return memory(**inputs, rule=rule, gates=gates, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", AFFINE_RULES)
@pytest.mark.parametrize("count", LENGTHS)
def test_chunkwise_equals_sequential(rule: str, count: int) -> None:
    inputs, gates = sequence(rule_of(rule), count)
    expected, end = run(rule, inputs, gates, strategy="sequential")
    for chunk in CHUNKS:
        y, state = run(rule, inputs, gates, chunk_size=chunk)
        assert y.shape == expected.shape
        assert relative(y, expected) < EXACT
        assert state.position == end.position == count
        for name, tensor in end.flat().items():
            assert relative(state.flat()[name], tensor) < EXACT


@pytest.mark.parametrize("rule", AFFINE_RULES)
@pytest.mark.parametrize("seed", range(3))
def test_random_splits_with_carried_state_equal_one_call(rule: str, seed: int) -> None:
    count = 100
    inputs, gates = sequence(rule_of(rule), count, seed=seed)
    expected, end = run(rule, inputs, gates, strategy="sequential")
    borders = sorted(torch.randint(0, count + 1, (4,), generator=torch.Generator().manual_seed(seed)).tolist())
    state, reads = None, []
    for start, stop in zip([0, *borders], [*borders, count], strict=True):
        part = {name: one[:, :, start:stop] for name, one in inputs.items()}
        used = {name: one[:, :, start:stop] for name, one in gates.items()}
        y, state = run(rule, part, used, state=state, chunk_size=16)
        reads.append(y)
    assert state is not None
    assert state.position == count
    assert relative(torch.cat(reads, 2), expected) < EXACT
    for name, tensor in end.flat().items():
        assert relative(state.flat()[name], tensor) < EXACT


def with_state(rule: str, count: int, chunk: int) -> tuple[list[Tensor], list[str], object]:
    """Leaves (inputs, gates, first state) and a function from leaves to a scalar that sees all results."""
    inputs, gates = sequence(rule_of(rule), count)
    _, first = run(rule, inputs, gates, strategy="sequential")  # some memory to start from
    named = {**inputs, **gates, **first.flat()}
    random = torch.Generator().manual_seed(1)

    def scalar(leaves: list[Tensor], strategy: str) -> Tensor:
        given = dict(zip(named, leaves, strict=True))
        state = State(position=0)
        for name in first.flat():
            state = _put(state, name, given[name])
        y, end = run(
            rule,
            {name: given[name] for name in inputs},
            {name: given[name] for name in gates},
            state=state,
            strategy=strategy,
            chunk_size=chunk,
        )
        random.manual_seed(1)
        outs = [y, *end.flat().values()]
        return sum(  # type: ignore[return-value]
            (out * torch.randn(out.shape, generator=random, dtype=out.dtype)).sum() for out in outs
        )

    return list(named.values()), list(named), scalar


def _put(state: State, path: str, tensor: Tensor) -> State:
    head, _, tail = path.partition(".")
    if not tail:
        return state.replace(**{head: tensor})
    inner = state[head] if head in state else State()
    return state.replace(**{head: _put(inner, tail, tensor)})


@pytest.mark.parametrize("rule", AFFINE_RULES)
@pytest.mark.parametrize(("count", "chunk"), [(1, 1), (7, 16), (64, 16), (100, 64)])
def test_vjp_equals_autograd_of_step(rule: str, count: int, chunk: int) -> None:
    leaves, names, scalar = with_state(rule, count, chunk)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    found = torch.autograd.grad(scalar(leaves, "chunkwise"), leaves)  # type: ignore[operator]
    expected = torch.autograd.grad(scalar(leaves, "sequential"), leaves)  # type: ignore[operator]
    for name, one, two in zip(names, found, expected, strict=True):
        assert relative(one, two) < GRADIENT, name


@pytest.mark.parametrize("rule", AFFINE_RULES)
@pytest.mark.parametrize("seed", range(3))
def test_vjp_equals_finite_differences(rule: str, seed: int) -> None:
    leaves, names, scalar = with_state(rule, 20, 8)
    ends = [rule_of(rule).gates.get(name) for name in names]
    random = torch.Generator().manual_seed(seed)
    directions = [torch.randn(leaf.shape, generator=random, dtype=leaf.dtype) for leaf in leaves]
    for direction, leaf, gate in zip(directions, leaves, ends, strict=True):
        if gate is not None:  # one-sided at the ends of a range: step inward only
            low, high = gate.domain
            near_low, near_high = leaf <= low + 0.01, leaf >= high - 0.01
            direction[near_low] = direction[near_low].abs()
            direction[near_high] = -direction[near_high].abs()
    tracked = [leaf.clone().requires_grad_() for leaf in leaves]
    grads = torch.autograd.grad(scalar(tracked, "chunkwise"), tracked)  # type: ignore[operator]
    slope = float(sum((grad * direction).sum() for grad, direction in zip(grads, directions, strict=True)))

    def at(step: float) -> float:
        moved = [leaf + step * direction for leaf, direction in zip(leaves, directions, strict=True)]
        return float(scalar(moved, "chunkwise"))  # type: ignore[operator]

    h = 1e-4  # one-sided differences of third order: (-11 f0 + 18 f1 - 9 f2 + 2 f3) / 6h
    found = (-11 * at(0.0) + 18 * at(h) - 9 * at(2 * h) + 2 * at(3 * h)) / (6 * h)
    assert abs(found - slope) < DIFFERENCE * max(1.0, abs(slope))


@pytest.mark.parametrize("rule", AFFINE_RULES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, SINGLE), (torch.bfloat16, HALF)])
def test_lower_precision_stays_near_float64(rule: str, dtype: torch.dtype, bound: float) -> None:
    inputs, gates = sequence(rule_of(rule), 1000, dtype=dtype)
    expected, end = run(
        rule,
        {name: one.double() for name, one in inputs.items()},
        {name: one.double() for name, one in gates.items()},
        strategy="sequential",
    )
    y, state = run(rule, inputs, gates)
    assert y.dtype == dtype
    assert relative(y.double(), expected) < bound
    for name, tensor in end.flat().items():
        assert state.flat()[name].dtype == torch.float32
        assert relative(state.flat()[name].double(), tensor) < SINGLE


@pytest.mark.parametrize("rule", [name for name in AFFINE_RULES if "retain" in rule_of(name).gates])
@pytest.mark.parametrize("strategy", ["sequential", "chunkwise", "frozen"])
def test_retain_is_the_fraction_kept(rule: str, strategy: str) -> None:
    """One pair written, n tokens without a write: the read is retain^n of the first, never (1 - retain)^n."""
    n, retain = 12, 0.9
    made = rule_of(rule)
    inputs, gates = sequence(made, n + 1)
    inputs["q"] = inputs["k"][:, :, :1].expand_as(inputs["q"])
    gates = {name: torch.zeros_like(one) for name, one in gates.items()}
    gates["retain"] += retain
    for name in set(gates) - {"retain", "momentum"}:
        gates[name][:, :, 0] = 1.0
    y, _ = run(rule, inputs, gates, strategy=strategy, chunk_size=5)
    assert float(y[:, :, 0].abs().max()) > 0.1
    assert relative(y[:, :, n], retain**n * y[:, :, 0]) < 1e-12


@pytest.mark.parametrize("rule", AFFINE_RULES)
@pytest.mark.parametrize("strategy", ["sequential", "chunkwise", "frozen"])
def test_masked_tokens_change_nothing(rule: str, strategy: str) -> None:
    """A sequence with masked tokens equals the sequence without them, and masked reads see the memory as it is."""
    inputs, gates = sequence(rule_of(rule), 40)
    write = torch.ones(2, 40, dtype=torch.bool)
    write[:, 3:9] = write[:, 20] = write[:, 39] = False
    options = {"strategy": strategy, "chunk_size": 1 if strategy == "frozen" else 16}
    _, masked = run(rule, inputs, gates, write_mask=write, **options)
    kept = write[0]
    _, without = run(
        rule,
        {name: one[:, :, kept] for name, one in inputs.items()},
        {name: one[:, :, kept] for name, one in gates.items()},
        **options,
    )
    for name, tensor in without.flat().items():
        if not name.startswith("anchor"):
            assert relative(masked.flat()[name], tensor) < EXACT
