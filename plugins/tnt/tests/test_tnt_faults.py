"""Faults planted into TNT's options, each beside the check of the kit that must tell it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hecate_tnt.strategy import TNT

from hecate_core.composing import rule_of, strategy_of
from hecate_core.records import State, Tokens
from hecate_core.shapes import Tensor
from hecate_core.testing import check_strategy
from hecate_core.testing.samples import RuleCase, piece

SMALL: dict[str, Any] = {"global_chunk": 6, "local_chunks": (2, 4), "shards": (4, 8)}
LOCAL: dict[str, Any] = {"global_chunk": 0, "local_chunks": (4,), "shards": (8,)}
FAULTS: dict[str, tuple[str, Callable[[], TNT], str]] = {}


def planted(told_by: str, rule: str = "delta") -> Callable[[Callable[[], TNT]], Callable[[], TNT]]:
    def add(make: Callable[[], TNT]) -> Callable[[], TNT]:
        FAULTS[make.__name__] = (told_by, make, rule)
        return make

    return add


class Unmasked(TNT):
    """Local memories write every token."""

    def _piece(self, index: int, plain: Any, mine: Any, tokens: Tokens, local: State, write: Any) -> Any:
        return super()._piece(index, plain, mine, tokens, local, None)


@planted("masked-tokens-rest")
def local_memories_that_ignore_the_mask() -> TNT:
    return Unmasked(**SMALL)


@planted("masked-tokens-rest")
def the_only_memory_ignores_the_mask() -> TNT:
    return Unmasked(**LOCAL)


@planted("masked-tokens-rest")
def a_restart_that_nobody_declared() -> TNT:
    made = TNT(**SMALL)
    made.restarts = {}
    return made


@planted("masked-tokens-rest", "moneta")
def resting_reads_that_do_not_know_where_a_chunk_began() -> TNT:
    class Faulty(TNT):
        def read(self, rule: Any, params: Any, state: State, q: Tensor) -> Tensor:
            held, self.shards = self.shards, tuple(10**6 for _ in self.shards)
            try:
                found: Tensor = super().read(rule, params, state.replace(position=8 * 10**6), q)
            finally:
                self.shards = held
            return found

    return Faulty(**LOCAL, link="chunk")


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return -d


@planted("gradients-equal-differences")
def a_wrong_backward_of_the_only_memory() -> TNT:
    class Faulty(TNT):
        def _piece(self, index: int, plain: Any, mine: Any, tokens: Tokens, local: State, write: Any) -> Any:
            return super()._piece(index, plain, mine, tokens.replace(v=_Turned.apply(tokens.v)), local, write)

    return Faulty(**LOCAL)


@planted("gradients-equal-differences")
def the_global_memory_is_not_detached() -> TNT:
    made = TNT(**SMALL, detach=True)
    made._global = type(made._global)(chunk=6, read="anchor")
    return made


@planted("reads-come-as-late-as-declared")
def a_global_memory_that_is_read_at_once() -> TNT:
    made = TNT(global_chunk=6, local_chunks=(), shards=())
    made._global = type(made._global)(chunk=6)
    return made


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_told_by_the_check_named_after_it(name: str) -> None:
    told_by, make, rule = FAULTS[name]
    found = {one.name: one.reason for one in check_strategy(make(), rules=[rule]) if not one.ok}
    assert told_by in found
    assert "\n" not in found[told_by]


@pytest.mark.parametrize("options", [SMALL, LOCAL, {**LOCAL, "link": "chunk"}, {**SMALL, "detach": True}], ids=str)
def test_the_same_without_a_fault_passes(options: dict[str, Any]) -> None:
    assert [one.line for one in check_strategy(TNT(**options), rules=["delta", "moneta"]) if not one.ok] == []


def test_while_a_level_rests_a_linked_local_memory_is_read_as_it_would_be() -> None:
    """Inside a chunk reads see the weights that were linked at its first token and ran on, not the stored ones."""
    strategy: Any = strategy_of({"name": "tnt", **LOCAL, "link": "chunk"}, rule_of("moneta"))
    case = RuleCase(strategy.around(rule_of("moneta")))
    tokens = case.tokens(8, inner=True)
    _, state = strategy(case.rule, case.params, piece(tokens, 0, 6), case.fresh())
    silent = torch.zeros(2, 1, dtype=torch.bool)
    y, _ = strategy(case.rule, case.params, piece(tokens, 6, 7), state, silent)
    z = case.rule.read(case.params, state, tokens.q[:, :, 6:7])
    projected = strategy(case.rule, case.params, piece(tokens, 6, 7), state, silent)[1].local0.projection
    assert torch.equal(projected, state.local0.projection)
    assert float((y - z).abs().max()) < 1e-12
