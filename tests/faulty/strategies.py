"""Strategies that are not what they claim."""

from typing import Any

import torch

from hecate_core.api import State, Tensor, Tokens
from hecate_core.strategies.chunkwise import Chunkwise
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential
from hecate_core.testing import check_strategy

from .planting import DELTA, planted

LINKED = {"structure": "matrix", "bias": "l2", "retention": "sigmoid", "algorithm": "gd"}


@planted("is-causal", check_strategy, rules=[DELTA])
def leak_of_one_future_token() -> Any:
    class Strategy(Chunkwise):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            v = torch.cat((tokens.v[:, :, :-1] + 1e-9 * tokens.v[:, :, 1:], tokens.v[:, :, -1:]), 2)
            return super().__call__(rule, params, tokens.replace(v=v), state, write)

    return Strategy(chunk=4)


@planted("equals-sequential", check_strategy, rules=[DELTA])
def exactness_claimed_by_an_approximation() -> Any:
    class Strategy(Frozen):
        exact = True

    return Strategy(chunk=4)


@planted("splits-change-nothing", check_strategy, rules=[DELTA])
def chunk_grid_that_restarts_at_each_call() -> Any:
    class Strategy(Frozen):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            y, after = super().__call__(rule, params, tokens, state.replace(position=0), write)
            return y, after.replace(position=state.position + tokens.q.shape[2])

    return Strategy(chunk=4)


class _Turned(torch.autograd.Function):
    """The identity with a wrong derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return -d


@planted("gradients-equal-differences", check_strategy, rules=[DELTA])
def wrong_sign_in_a_backward() -> Any:
    class Strategy(Chunkwise):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            tokens = tokens.replace(k=_Turned.apply(tokens.k))
            return super().__call__(rule, params, tokens, state, write)

    return Strategy(chunk=4)


@planted("masked-tokens-rest", check_strategy, rules=[DELTA])
def write_mask_ignored() -> Any:
    class Strategy(Sequential):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            return super().__call__(rule, params, tokens, state, None)

    return Strategy()


@planted("gradients-equal-differences", check_strategy, rules=[DELTA])
def detached_by_word_and_not_by_deed() -> Any:
    class Strategy(Frozen):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            return Frozen(chunk=self.chunk)(rule, params, tokens, state, write)

    return Strategy(chunk=4, detach=True)


@planted("gradients-equal-differences", check_strategy, rules=[DELTA])
def anchor_cut_without_a_word() -> Any:
    class Strategy(Frozen):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            return Frozen(chunk=self.chunk, detach=True)(rule, params, tokens, state, write)

    return Strategy(chunk=4)


@planted("gradients-equal-differences", check_strategy, rules=[DELTA])
def wrong_sign_in_a_detached_backward() -> Any:
    class Strategy(Frozen):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            return super().__call__(rule, params, tokens.replace(v=_Turned.apply(tokens.v)), state, write)

    return Strategy(chunk=4, detach=True)


@planted("reads-come-as-late-as-declared", check_strategy, rules=[DELTA])
def reads_at_once_what_it_declares_late() -> Any:
    class Strategy(Frozen):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            return Frozen(chunk=self.chunk)(rule, params, tokens, state, write)

    return Strategy(chunk=4, read="anchor")


@planted("masked-tokens-rest", check_strategy, rules=[DELTA])
def anchor_that_resting_tokens_hold_up() -> Any:
    class Strategy(Frozen):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            if write is not None and not bool(write.any()):
                return self.recall(rule, params, state, tokens.q), state
            return super().__call__(rule, params, tokens, state, write)

    return Strategy(chunk=4, read="anchor")


@planted("chunk-one-is-the-step", check_strategy, rules=[LINKED])
def link_taken_before_the_first_write() -> Any:
    class Strategy(Frozen):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            y, after = super().__call__(rule, params, tokens, state, write)
            if state.position % self.chunk == 0 and tokens.q.shape[2]:
                y = torch.cat((self.recall(rule, params, state, tokens.q[:, :, :1]), y[:, :, 1:]), 2)
            return y, after

    return Strategy(chunk=4, link="chunk")


@planted("splits-change-nothing", check_strategy, rules=[LINKED])
def linked_weights_that_no_state_carries() -> Any:
    class Strategy(Frozen):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            first = self.init_state(rule, params, tokens.q.shape[0])
            return super().__call__(rule, params, tokens, state.replace(seen=first.seen), write)

    return Strategy(chunk=4, link="chunk")


@planted("masked-tokens-rest", check_strategy, rules=[LINKED])
def linked_weights_that_resting_reads_do_not_see() -> Any:
    class Strategy(Frozen):
        def recall(self, rule: Any, params: Any, state: State, q: Tensor) -> Tensor:
            return super().recall(rule, params, state.replace(position=0), q)

    return Strategy(chunk=4, link="chunk")
