"""The op `affine_column` and the decays per channel against token loops written out by hand."""

from typing import Any

import pytest
import torch

from hecate_core import memory
from hecate_core.composing import rule_of, strategy_of
from hecate_core.errors import CompositionError
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.ops.affine import REFERENCE as AFFINE
from hecate_core.ops.affine_column import ColumnTokens, affine_column
from hecate_core.shapes import Tensor
from hecate_core.strategies.chunkwise import Chunkwise

from .sequences import relative, sequence, tokens_of

EXACT = 1e-12  # float64, two orders of the same sums over 50 tokens
GRADIENT = 1e-10  # float64, against autograd of the token loop


def knobs(retention: str, bias: str = "l2", algorithm: Any = "gd") -> dict[str, Any]:
    return {"structure": "matrix", "bias": bias, "retention": retention, "algorithm": algorithm}


KEPT = {"name": "gd", "at": "kept"}


def op_inputs(count: int, *, erases: bool = True, seed: int = 0) -> list[Tensor]:
    """q, k, v, keep, erase, write and a first memory; decays of exactly 0, of 1 and of 1e-12 among them."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    keep, erase, write = draw(2, 1, count, 5).sigmoid(), draw(2, 1, count, 5).sigmoid(), draw(2, 1, count).sigmoid()
    keep[:, :, 0], keep[:, :, 3 % count, :2], keep[:, :, 5 % count, 1] = 1.0, 0.0, 1e-12
    made = [draw(2, 1, count, 5) / 2, draw(2, 1, count, 5) / 2, draw(2, 1, count, 4), keep, erase, write]
    return [*made, draw(2, 1, 4, 5)] if erases else [*made[:4], made[5], draw(2, 1, 4, 5)]


def by_hand(leaves: list[Tensor], erases: bool) -> tuple[Tensor, Tensor]:
    """The recurrence as the module's first lines print it."""
    q, k, v, keep, *rest, state = leaves
    erase, write = (rest[0], rest[1]) if erases else (torch.zeros_like(keep), rest[0])
    reads = []
    for t in range(q.shape[2]):
        u = write[:, :, t, None] * v[:, :, t] - torch.einsum("bhvk,bhk->bhv", state, erase[:, :, t] * k[:, :, t])
        state = state * keep[:, :, t, None, :] + torch.einsum("bhv,bhk->bhvk", u, k[:, :, t])
        reads.append(torch.einsum("bhvk,bhk->bhv", state, q[:, :, t]))
    return torch.stack(reads, 2), state


def by_op(leaves: list[Tensor], erases: bool, chunk: int) -> tuple[Tensor, Tensor]:
    q, k, v, keep, *rest, state = leaves
    tokens = ColumnTokens(q, k, v, keep, rest[0] if erases else None, rest[-1])
    y, end, _ = affine_column(tokens, state, None, chunk)
    return y, end


@pytest.mark.parametrize("erases", [True, False])
@pytest.mark.parametrize(("count", "chunk"), [(1, 4), (7, 1), (7, 16), (50, 7), (50, 64)])
def test_op_and_its_vjp_equal_the_token_loop(erases: bool, count: int, chunk: int) -> None:
    leaves = [one.requires_grad_() for one in op_inputs(count, erases=erases)]
    found, expected = by_op(leaves, erases, chunk), by_hand(leaves, erases)
    assert relative(found[0].detach(), expected[0].detach()) < EXACT
    assert relative(found[1].detach(), expected[1].detach()) < EXACT
    random = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(one.shape, generator=random, dtype=one.dtype) for one in found]
    ours = torch.autograd.grad(found, leaves, cotangents)
    theirs = torch.autograd.grad(expected, leaves, cotangents)
    for one, two in zip(ours, theirs, strict=True):
        assert relative(one, two) < GRADIENT


def test_op_passes_gradcheck() -> None:
    leaves = [one[:1].clone() for one in op_inputs(4)]
    leaves[3].clamp_(0.01, 0.99)  # differences to both sides; at exactly 0 the token loop is the judge above
    leaves = [one.requires_grad_() for one in leaves]
    assert torch.autograd.gradcheck(lambda *given: by_op(list(given), True, 3), leaves, atol=1e-7)


def step_by_hand(name: str, now: dict[str, Tensor], state: Tensor) -> Tensor:
    """One token of a matrix memory with channel decay, each combination in its own words."""
    k, v, retain, write = now["k"], now["v"], now["retain"], now["write"][..., None]
    decayed = state * (retain.unsqueeze(-2) if "column" in name else retain.unsqueeze(-1))
    seen = {"kept": decayed, "raw": state, "dot": torch.zeros_like(state)}[name.split("-")[1]]
    error = v - torch.einsum("bhvk,bhk->bhv", seen, k)
    return decayed + torch.einsum("bhv,bhk->bhvk", write * error, k)


COMBINATIONS = {
    "column-kept": knobs("column", algorithm=KEPT),
    "column-raw": knobs("column"),
    "column-dot": knobs("column", bias="dot"),
    "row-kept": knobs("row", algorithm=KEPT),
    "row-raw": knobs("row"),
    "row-dot": knobs("row", bias="dot"),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_strategy_that_serves_a_channel_decay_equals_the_loop(name: str) -> None:
    rule = rule_of(COMBINATIONS[name])
    inputs, gates = sequence(rule, 40)
    state, reads = torch.zeros(2, 2, 4, 5, dtype=torch.float64), []
    for t in range(40):
        now = {key: one[:, :, t] for key, one in {**inputs, **gates}.items()}
        state = step_by_hand(name, now, state)
        reads.append(torch.einsum("bhvk,bhk->bhv", state, now["q"]))
    expected = torch.stack(reads, 2)
    served = {"sequential": 1, "frozen": 40 if name.endswith("dot") else 1}
    if name.startswith("column"):
        served["chunkwise"] = 16
    for strategy, chunk in served.items():
        y, end = memory(**inputs, rule=rule, gates=gates, strategy=strategy, chunk_size=chunk)
        assert relative(y, expected) < EXACT, strategy
        assert relative(end.memory.matrix, state) < EXACT, strategy


@pytest.mark.parametrize("retention", ["column", "row"])
def test_equal_channels_are_the_scalar_decay(retention: str) -> None:
    """Bit for bit under `sequential`, to rounding where another op serves it."""
    for algorithm in ("gd", KEPT):
        inputs, gates = sequence(rule_of(knobs("scalar", algorithm=algorithm)), 30)
        expected, _ = memory(**inputs, rule=knobs("scalar", algorithm=algorithm), gates=gates, strategy="sequential")
        width = inputs["k" if retention == "column" else "v"].shape[3]
        wide = {**gates, "retain": gates["retain"].unsqueeze(-1).expand(-1, -1, -1, width)}
        y, _ = memory(**inputs, rule=knobs(retention, algorithm=algorithm), gates=wide, strategy="sequential")
        assert relative(y, expected) < EXACT
        if retention == "column":
            y, _ = memory(**inputs, rule=knobs(retention, algorithm=algorithm), gates=wide)
            assert relative(y, expected) < EXACT


def test_what_has_no_exact_form_says_why() -> None:
    for table, words in (
        (knobs("row"), "a decay per row"),
        (knobs("column", algorithm="momentum"), "momentum with a decay per column"),
    ):
        refused = rule_of(table).offers(Affine)
        assert isinstance(refused, Refused)
        assert words in refused.reason
        assert not isinstance(rule_of(table).offers(Linearised), Refused)
        with pytest.raises(CompositionError, match=words):
            strategy_of("chunkwise", rule_of(table))


def test_the_form_picks_the_op_and_a_foreign_pair_is_refused() -> None:
    column, scalar = rule_of(knobs("column")), rule_of(knobs("scalar"))
    picked = {rule.name: strategy_of("chunkwise", rule) for rule in (column, scalar)}
    assert [strategy.pair.op for strategy in picked.values()] == ["affine_column", "affine"]  # type: ignore[attr-defined]
    inputs, gates = sequence(column, 3)
    with pytest.raises(CompositionError, match='needs the op "affine_column"'):
        memory(**inputs, rule=column, gates=gates, strategy=Chunkwise(pair=AFFINE))


def test_momentum_with_a_channel_decay_runs_where_it_is_offered() -> None:
    for retention in ("column", "row"):
        rule = rule_of(knobs(retention, algorithm="momentum"))
        inputs, gates = sequence(rule, 12)
        state = surprise = torch.zeros(2, 2, 4, 5, dtype=torch.float64)
        reads = []
        for t in range(12):
            now = {key: one[:, :, t] for key, one in tokens_of(inputs, gates).items()}
            error = torch.einsum("bhvk,bhk->bhv", state, now["k"]) - now["v"]
            step = torch.einsum("bhv,bhk->bhvk", error, now["k"]) * now["write"][..., None, None]
            surprise = now["momentum"][..., None, None] * surprise - step
            state = state * now["retain"].unsqueeze(-2 if retention == "column" else -1) + surprise
            reads.append(torch.einsum("bhvk,bhk->bhv", state, now["q"]))
        for strategy in ("sequential", "frozen"):
            y, _ = memory(**inputs, rule=rule, gates=gates, strategy=strategy, chunk_size=1)
            assert relative(y, torch.stack(reads, 2)) < EXACT
