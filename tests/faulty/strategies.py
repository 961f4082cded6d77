"""Strategies that are not what they claim."""

from typing import Any

import torch

from hecate_core.api import State, Tensor, Tokens
from hecate_core.strategies.chunkwise import Chunkwise
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential
from hecate_core.testing import check_strategy

from .planting import DELTA, planted


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


class _Halved(torch.autograd.Function):
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
            tokens = tokens.replace(k=_Halved.apply(tokens.k))
            return super().__call__(rule, params, tokens, state, write)

    return Strategy(chunk=4)


@planted("masked-tokens-rest", check_strategy, rules=[DELTA])
def write_mask_ignored() -> Any:
    class Strategy(Sequential):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            return super().__call__(rule, params, tokens, state, None)

    return Strategy()
