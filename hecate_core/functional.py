"""`memory(q, k, v, rule=...)`: one memory rule as a function of tensors, and the checks at that door."""

from collections.abc import Mapping
from typing import Any

import torch

from hecate_core.composing import presented, rule_of, strategy_of
from hecate_core.errors import InputError
from hecate_core.input_checks import (
    check_inputs,
    check_marks,
    check_params,
    check_state,
    precision_of,
    refuse_transforms,
)
from hecate_core.parameters import initial_params
from hecate_core.precision import full_precision, handed
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

    Any T >= 0, float32, float64 or bfloat16 (state in float32 or wider); of mixed inputs, parameters and state the
    widest is computed in, and y has q's. Autocast around the call changes nothing. Gradients flow to every tensor
    given, the carried state included. Keys are not normalised here; rules assume |k| <= 1.

    Raises InputError for wrong shapes, devices, unknown or missing names, gates outside their range, NaN or Inf (on the
    CPU), under torch.func and for torch.export with gradients; CompositionError where the strategy does not serve the
    rule.
    """
    made = rule_of(rule)
    given = {name: one for name, one in {"q": q, "k": k, "v": v, **inputs}.items() if one is not None}
    gates = {} if gates is None else gates
    packed = None if cu_seqlens is None else Packed.of(cu_seqlens, q)
    if packed is not None:
        demand_exact(made, strategy_of(strategy, made, chunk=chunk_size, backend=backend))
    check_inputs(made, given, gates)
    _check_options(made, chunk_size, given, gates, state, params)
    if packed is not None:
        y, after = memory(
            **packed.every(given),
            rule=made,
            gates=packed.every(gates),
            strategy=strategy,
            chunk_size=chunk_size,
            state=state,
            backend=backend,
            params=params,
            write_mask=packed.there if write_mask is None else packed.marks(write_mask),
            starts=None if starts is None else packed.marks(starts),
        )
        return packed.together(y), after
    for name, marks in (("write_mask", write_mask), ("starts", starts)):
        check_marks(name, marks, q.shape[0], q.shape[2], q.device)
    wide = precision_of((*given.values(), *(params or {}).values(), *(() if state is None else state.flat().values())))
    narrow = wide == torch.float32  # kernels may read inputs as they are
    tokens = Tokens.of(
        {
            **(given if narrow else {name: one.to(wide) for name, one in given.items()}),
            **{name: one.to(wide) for name, one in gates.items()},
        }
    )
    if starts is not None:
        made, tokens = restarting(made, tokens, starts, write_mask, params)
        write_mask = None
    spread = strategy_of(strategy, made, chunk=chunk_size, backend=backend)
    made = presented(made, spread)
    record = _params(made, given, params, wide)
    first = spread.init_state(made, record, q.shape[0])
    if state is not None:
        check_state(first, state)
        first = state.map(lambda one: one.to(wide) if one.is_floating_point() else one)
    with full_precision(q.device):  # the memory has no digits to lose
        y, after = spread(made, record, handed(spread, made, tokens), first, write_mask)
    return y.to(q.dtype), after


def _check_options(
    rule: MemoryRule,
    chunk_size: Any,
    given: Mapping[str, Tensor],
    gates: Mapping[str, Tensor],
    state: Any,
    params: Mapping[str, Tensor] | None,
) -> None:
    if type(chunk_size) is not int or chunk_size < 1:
        raise InputError(f"chunk_size = {chunk_size!r}; expected an integer >= 1")
    if state is not None and not isinstance(state, State):
        raise InputError(f"state is a {type(state).__name__}; expected the State that an earlier call returned")
    if params is not None and not isinstance(params, Mapping):
        raise InputError(f"params is a {type(params).__name__}; expected a table of tensors by name")
    carried = () if state is None else state.flat().values()
    learned = () if params is None else params.values()
    refuse_transforms(f'memory(rule="{rule.name}")', (*given.values(), *gates.values(), *learned, *carried))


def _params(
    rule: MemoryRule, given: Mapping[str, Tensor], params: Mapping[str, Tensor] | None, dtype: torch.dtype
) -> Params:
    q = given["q"]
    given_widths = {rule.inputs[name]: tensor.shape[3] for name, tensor in given.items()}
    widths = full_widths(rule, {"H": q.shape[1], "V": q.shape[3], **given_widths})
    check_params(rule, params, widths, q.device)
    taken = {name: one.to(dtype) for name, one in (params or {}).items()}
    if params is not None and set(params) == set(rule.params):
        return Params.of(taken)
    return initial_params(rule, widths, dtype=dtype, device=q.device).replace(**taken)
