"""`memory(q, k, v, rule=...)`: one memory rule as a function of tensors, and the checks at that door."""

from collections.abc import Mapping
from typing import Any

import torch

from hecate_core.composing import presented, rule_of, strategy_of
from hecate_core.errors import InputError
from hecate_core.input_checks import check_inputs, check_state, known
from hecate_core.parameters import initial_params
from hecate_core.precision import handed, widened
from hecate_core.protocols import MemoryRule
from hecate_core.records import Params, State, Tokens
from hecate_core.shapes import Bool, Float, Tensor
from hecate_core.strategies.documents import restarting
from hecate_core.strategies.packed import Packed, demand_exact
from hecate_core.widths import full_widths


def memory(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"] | None = None,
    v: Float[Tensor, "B H T V"] | None = None,
    *,
    rule: Any,
    gates: Mapping[str, Float[Tensor, "B H T"]] | None = None,
    strategy: Any = "chunkwise",
    chunk_size: int = 64,
    state: State | None = None,
    backend: str = "auto",
    params: Mapping[str, Tensor] | None = None,
    write_mask: Bool[Tensor, "B T"] | None = None,
    starts: Bool[Tensor, "B T"] | None = None,
    cu_seqlens: Tensor | None = None,
    **inputs: Float[Tensor, "B H T W"],
) -> tuple[Float[Tensor, "B H T V"], State]:
    """Run one memory rule over a sequence: y_t is read after token t was written.

    `rule` is a name, a table or an instance (`hecate plugins` lists them). `gates` are used values by role:
    retain in [0, 1] (1 keeps all), write >= 0 (inner step size), momentum in [0, 1]. `inputs` are further inputs that
    the rule declares; a rule that makes keys and values itself is given none. `params` are its outer parameters
    (default: its declared start, memory zero). Tokens where `write_mask` is False are read and change nothing. Where
    `starts` is True a new document begins: nothing written before in that row is seen, exactly, or the call is refused
    with the reason. The result's `state` continues where this call ended.

    With `cu_seqlens`, int `[N + 1]`, the one row holds N sequences behind each other, the n-th from token cu_seqlens[n]
    to the next: each begins with its own row of `state` (N rows) and ends in one, exactly as if it were alone. For
    affine rules under exact strategies; anything else is refused with the reason. The position counts the longest.

    Any T >= 0, float32, float64 or bfloat16 (state in float32 or wider). Gradients flow to every tensor given,
    the carried state included. Keys are not normalised here; rules assume |k| <= 1.

    Raises InputError for wrong shapes, unknown or missing names, gates outside their range, NaN or Inf (on the CPU);
    CompositionError where the strategy does not serve the rule.
    """
    made = rule_of(rule)
    if cu_seqlens is not None:
        packed = Packed.of(cu_seqlens, q)
        demand_exact(made, strategy_of(strategy, made, chunk=chunk_size, backend=backend))
        y, after = memory(
            **packed.every({name: one for name, one in {"q": q, "k": k, "v": v, **inputs}.items() if one is not None}),
            rule=made,
            gates=packed.every(gates or {}),
            strategy=strategy,
            chunk_size=chunk_size,
            state=state,
            backend=backend,
            params=params,
            write_mask=packed.there if write_mask is None else packed.marks(write_mask),
            starts=None if starts is None else packed.marks(starts),
        )
        return packed.together(y), after
    given = {name: one for name, one in {"q": q, "k": k, "v": v, **inputs}.items() if one is not None}
    check_inputs(made, given, gates or {})
    tokens = Tokens.of({**given, **{name: widened(one) for name, one in (gates or {}).items()}})
    if write_mask is not None and write_mask.shape != (q.shape[0], q.shape[2]):
        raise InputError(f"write_mask is {list(write_mask.shape)}; expected [B, T] = [{q.shape[0]}, {q.shape[2]}]")
    if write_mask is not None and write_mask.dtype != torch.bool:
        raise InputError(f"write_mask is {write_mask.dtype}; expected torch.bool, True where a token may write")
    if starts is not None:
        made, tokens = restarting(made, tokens, starts, write_mask, params)
        write_mask = None
    spread = strategy_of(strategy, made, chunk=chunk_size, backend=backend)
    made = presented(made, spread)
    record = _params(made, given, params)
    first = spread.init_state(made, record, q.shape[0]) if state is None else state
    if state is not None:
        check_state(spread.init_state(made, record, q.shape[0]), state)
    y, after = spread(made, record, handed(spread, made, tokens), first, write_mask)
    return y.to(q.dtype), after


def _params(rule: MemoryRule, given: Mapping[str, Tensor], params: Mapping[str, Tensor] | None) -> Params:
    q = given["q"]
    given_widths = {rule.inputs[name]: tensor.shape[3] for name, tensor in given.items()}
    widths = {"H": q.shape[1], "V": q.shape[3], **given_widths}
    dtype = torch.promote_types(q.dtype, torch.float32)
    for name in params or {}:
        if name not in rule.params:
            raise InputError(f'memory(rule="{rule.name}"): unknown parameter "{name}"{known(name, rule.params)}')
    if params is not None and set(params) == set(rule.params):
        return Params.of(params)
    start = initial_params(rule, full_widths(rule, widths), dtype=dtype, device=q.device)
    return start.replace(**(params or {}))
