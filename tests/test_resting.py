"""A token that may not write reads what a resting level reads, and a memory that rests stays as it is."""

from typing import Any, cast

import pytest
import torch

from hecate_core.composing import presented, rule_of
from hecate_core.protocols import Strategy
from hecate_core.records import Params, Tokens
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential
from hecate_core.testing.samples import BATCH, RuleCase, demand_close
from hecate_core.testing.spreading import EXACT, masked_tokens_rest

ELASTIC = {"structure": "matrix", "bias": "l2", "retention": "elastic-proximal", "algorithm": "gd"}


@pytest.mark.parametrize("options", [{}, {"read": "anchor"}, {"link": "chunk"}], ids=str)
@pytest.mark.parametrize("rule", ["delta", "lattice", "moneta", "memora", ELASTIC], ids=str)
def test_a_masked_token_reads_what_rests(rule: Any, options: dict[str, str]) -> None:
    """Wherever in a chunk of four a level begins to rest."""
    case, spread = RuleCase(rule_of(rule)), cast(Strategy, Frozen(chunk=4, **options))  # type: ignore[arg-type]
    shown = presented(case.rule, spread)
    for count in range(9):
        tokens, never = case.tokens(count + 1, inner=True), torch.zeros(BATCH, 1, dtype=torch.bool)
        state = spread.init_state(case.rule, case.params, BATCH)
        _, state = spread(case.rule, case.params, tokens.map(lambda one, n=count: one[:, :, :n]), state)  # type: ignore[misc]
        last = tokens.map(lambda one, n=count: one[:, :, n:])  # type: ignore[misc]
        y, _ = spread(case.rule, case.params, last, state, never)
        demand_close(f"after {count} tokens", shown.read(case.params, state, last.q), y, EXACT)


@pytest.mark.parametrize("rule", ["lattice", ELASTIC], ids=str)
@pytest.mark.parametrize("chunk", [1, 4])
def test_a_projected_memory_rests_over_chunk_ends(rule: Any, chunk: int) -> None:
    masked_tokens_rest(RuleCase(rule_of(rule)), cast(Strategy, Frozen(chunk=chunk)))


def test_a_projection_that_shrinks_is_paid_once_for_a_write() -> None:
    """Threshold 0.1: what was written as 1 reads 0.9 for as long as nothing is written, in all chunk sizes."""
    rule = rule_of({**ELASTIC, "bias": "dot", "retention": {"name": "elastic-proximal", "threshold": 0.1}})
    one, first = torch.ones(1, 1, 9, 1), torch.arange(9).unsqueeze(0) == 0
    tokens = Tokens(q=one, k=one, v=one, retain=one[..., 0], write=one[..., 0])
    params = Params(matrix=torch.zeros(1, 1, 1))
    for spread in cast(list[Strategy], [Sequential(), Frozen(chunk=1), Frozen(chunk=4)]):
        y, state = spread(rule, params, tokens, spread.init_state(rule, params, 1), first)
        assert torch.allclose(y, torch.tensor(0.9)), spread.name
        kept = presented(rule, spread).read(params, state, one[:, :, :1])
        assert torch.allclose(kept, torch.tensor(0.9)), spread.name
