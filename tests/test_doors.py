"""Beside the rest of PyTorch, and with wrong input: layer, model and function give the same numbers or one line."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from hecate_core import MemoryLayer, compose, memory
from hecate_core.backends import pair_for
from hecate_core.composing import rule_of
from hecate_core.errors import HecateError, InputError
from hecate_core.model import LanguageModel
from hecate_core.records import State
from hecate_core.shapes import Tensor

from .sequences import relative, sequence
from .test_memory_layer import CELLS, layer_of, sentence

# One cell for each way to differentiate: by an op, through a chunk of frozen gradients, token by token.
WAYS = [("titans", "chunkwise"), ("kda", "chunkwise"), ("trellis", "frozen"), ("lattice", "sequential")]
SAME = 1e-5  # float32: the same formula in another order


def gradients(layer: MemoryLayer, x: Tensor, run: Callable[..., Any], *more: Any) -> list[Tensor]:
    layer.zero_grad()
    leaf = x.clone().requires_grad_()
    y, after = run(leaf, *more)
    tracked = [one.sum() for one in after.flat().values() if one.requires_grad]
    (y.float().square().sum() + sum(tracked)).backward()
    found = [leaf.grad, *(one.grad for one in layer.parameters())]
    return [y.detach(), *(one.clone() for one in found if one is not None)]


@pytest.mark.parametrize(("rule", "strategy"), CELLS)
def test_activation_checkpointing_around_a_layer_changes_no_bit(rule: str, strategy: str) -> None:
    """State is an argument, so the second forward pass reads what the first one read."""
    layer, x = layer_of(rule, strategy, levels=(1,)), sentence(5)
    state = layer.init_state(2).map(torch.Tensor.detach)
    plain = gradients(layer, x, layer, state)

    def again(x: Tensor, state: State) -> Any:
        return checkpoint(layer, x, state, use_reentrant=False)  # hecate: allow CS-42 -- state is an argument

    recomputed = gradients(layer, x, again, state)
    assert len(plain) == len(recomputed)
    assert all(torch.equal(one, two) for one, two in zip(plain, recomputed, strict=True))


@pytest.mark.parametrize(("rule", "strategy"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_around_the_function_changes_no_bit(rule: str, strategy: str, dtype: torch.dtype) -> None:
    inputs, gates = sequence(rule_of(rule), 9, dtype=dtype)
    given: dict[str, Any] = {**inputs, "rule": rule, "strategy": strategy, "gates": gates, "chunk_size": 4}
    expected, end = memory(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, after = memory(**given)
    assert y.dtype == dtype
    assert torch.equal(y, expected)
    assert all(torch.equal(one, end.flat()[name]) for name, one in after.flat().items())


@pytest.mark.parametrize(("rule", "strategy"), WAYS)
def test_a_backward_inside_autocast_gives_gradients(rule: str, strategy: str) -> None:
    """PyTorch advises against it and casts its own products; an analytical backward keeps its precision."""
    layer, x = layer_of(rule, strategy), sentence(5)
    plain = gradients(layer, x, layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(layer, x, layer)
    assert all(relative(one.float(), two) < 0.1 for one, two in zip(found, plain, strict=True))  # bfloat16, twice


@pytest.mark.parametrize(("rule", "strategy"), [("delta", "chunkwise")])
def test_a_fresh_layer_compiles_as_one_graph(rule: str, strategy: str) -> None:
    """What `auto` takes is known when it is made: a tracer follows no look into the registry."""
    layer, x = layer_of(rule, strategy, levels=(1,)), sentence(5)
    state = layer.init_state(2).map(torch.Tensor.detach)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    found = gradients(layer, x, compiled, state)
    for one, two in zip(found, gradients(layer, x, layer, state), strict=True):
        assert relative(one, two) < SAME


def test_auto_is_made_for_an_op_without_plain_torch_and_says_so_when_asked() -> None:
    auto = pair_for("no-such-op")
    with pytest.raises(InputError, match='backend "reference" has no kernel pair for op "no-such-op"'):
        auto.serving(torch.device("cpu"), torch.float32, 4)


def of_titans(**changes: Any) -> Any:
    inputs, gates = sequence(rule_of("titans"), 9, dtype=torch.float32)
    return memory(**{**inputs, "rule": "titans", "gates": gates, **changes})


FUNC = r"torch.func \(vmap, grad, jvp\) finds no rule"


def test_torch_func_around_an_analytical_backward_is_one_line() -> None:
    layer, x = layer_of("delta", "chunkwise"), sentence(5)
    inputs, _ = sequence(rule_of("titans"), 9, dtype=torch.float32)
    model = model_of()
    calls: list[Callable[[], Any]] = [
        lambda: torch.func.grad(lambda x: layer(x)[0].sum())(x),
        lambda: torch.func.vmap(lambda x: layer(x)[0])(x.unsqueeze(0)),
        lambda: torch.func.jvp(lambda x: layer(x)[0], (x,), (x,)),
        lambda: torch.func.grad(lambda q: of_titans(q=q)[0].sum())(inputs["q"]),
        lambda: torch.func.vmap(lambda ids: model(ids, model.init_state(2)))(torch.zeros(1, 2, 3).long()),
    ]
    for call in calls:
        with pytest.raises(InputError, match=FUNC):
            call()
    weights = {name: one.detach() for name, one in layer.named_parameters()}
    assert torch.equal(torch.func.functional_call(layer, weights, (x,))[0], layer(x)[0])  # no transform


def test_an_export_where_gradients_are_recorded_is_refused() -> None:
    layer, x = layer_of("yaad", "frozen"), sentence(3)
    with pytest.raises(InputError, match=r"MemoryLayer: torch.export records no analytical backward.*no_grad\(\)"):
        torch.export.export(layer, (x,))
    layer.requires_grad_(False)
    torch.export.export(layer, (x,))


@pytest.mark.parametrize(("rule", "strategy"), WAYS)
@pytest.mark.parametrize("wide", ["q", "v", "gates"])
def test_mixed_precisions_are_computed_in_the_widest_of_inputs_and_state(rule: str, strategy: str, wide: str) -> None:
    made = rule_of(rule)
    inputs, gates = sequence(made, 9, dtype=torch.float32)
    given: dict[str, Any] = {**inputs, "rule": rule, "strategy": strategy, "chunk_size": 4}
    double = {name: one.double() for name, one in inputs.items()}
    _, state = memory(**{**given, **double}, gates=gates)
    if wide == "gates":
        y, after = memory(**given, gates={name: one.double() for name, one in gates.items()})
        expected, _ = memory(**given, gates=gates)
        assert torch.equal(y, expected)
        assert {one.dtype for one in after.flat().values()} == {torch.float32}
        return
    expected, _ = memory(**{**given, **double}, gates=gates, state=state)
    changed = {wide: inputs[wide].double()} if wide in inputs else {}
    y, after = memory(**{**given, **changed}, gates=gates, state=state)
    assert torch.equal(y, expected.to(y.dtype))
    assert {one.dtype for one in after.flat().values()} == {torch.float64}


def wrong_params(**params: Any) -> Any:
    return lambda: of_titans(params=params)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (wrong_params(matrix=0.5), "parameter matrix is float; expected a tensor of floats"),
        (wrong_params(matrix=torch.zeros(2, 4, 5).long()), "parameter matrix is torch.int64; expected a tensor of fl"),
        (wrong_params(matrix=torch.zeros(2, 5, 4)), "parameter matrix is [2, 5, 4]; expected [H, V, K] = [2, 4, 5]"),
        (wrong_params(matrix=torch.zeros(2, 2, 4, 5)), "parameter matrix is [2, 2, 4, 5]; expected [H, V, K]"),
        (wrong_params(matrix=torch.zeros(2, 4, 5, device="meta")), "parameter matrix is on meta; expected cpu, as q"),
        (wrong_params(matrix=torch.full((2, 4, 5), float("nan"))), "params: matrix holds NaN; expected finite"),
        (lambda: of_titans(params=[torch.zeros(2)]), "params is a list; expected a table of tensors by name"),
        (lambda: of_titans(gates=[torch.zeros(2)]), "gates is a list; expected a table of tensors by name"),
        (lambda: of_titans(k=torch.zeros(2, 2, 9, 5, device="meta")), "k is on meta; expected cpu, as q"),
        (lambda: of_titans(state=of_titans()[1].to("meta")), "state.memory.matrix is on meta; expected cpu, as q"),
        (lambda: of_titans(write_mask=[True]), "write_mask is a list; expected a bool tensor [B, T] = [2, 9]"),
        (lambda: of_titans(starts=[True]), "starts is a list; expected a bool tensor [B, T] = [2, 9]"),
        (lambda: of_titans(cu_seqlens=[0, 9]), "cu_seqlens is a list; expected an int32 or int64 tensor [N + 1]"),
        (lambda: of_titans(q=[1.0], cu_seqlens=torch.tensor([0, 9])), "cu_seqlens: q is no tensor [1, H, T, K]; exp"),
        (lambda: of_titans(chunk_size=4.0), "chunk_size = 4.0; expected an integer >= 1"),
    ],
)  # fmt: skip
def test_what_is_given_to_the_function_wrongly_is_one_line(call: Callable[[], Any], line: str) -> None:
    one_line(call, line)


def model_of(**model: Any) -> LanguageModel:
    table = {"width": 8, "depth": 1, "heads": 2, "vocab": 16, "memory": {"rule": "titans", "chunk": 4}, **model}
    return compose({"model": table})


def asked(ids: Any, state: Any = None, **more: Any) -> Callable[[], Any]:
    def call() -> Any:
        model = model_of()
        return model(ids, model.init_state(2) if state is None else state, **more)

    return call


IDS = torch.zeros(2, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (asked(IDS.float()), "model: ids is torch.float32 [2, 5]; expected int64 [B, T]"),
        (asked(IDS.to(torch.uint8)), "model: ids is torch.uint8 [2, 5]; expected int64 [B, T]"),
        (asked(IDS[0]), "model: ids is torch.int64 [5]; expected int64 [B, T]"),
        (asked(IDS.tolist()), "model: ids is a list; expected int64 [B, T]"),
        (asked(IDS + 16), "model: ids go from 16 to 16; expected 0 to 15 for model.vocab = 16"),
        (asked(IDS - 1), "model: ids go from -1 to -1; expected 0 to 15"),
        (asked(IDS.to("meta")), "model: ids is on meta; expected cpu, as the weights"),
        (asked(IDS, write=torch.ones(2, 5)), "model: write is torch.float32 [2, 5]; expected bool [B, T]"),
        (asked(IDS, starts=torch.ones(2, 4).bool()), "model: starts is torch.bool [2, 4]; expected bool [B, T]"),
        (asked(IDS, {}), "model: state is a dict; expected the State of init_state(batch)"),
        (asked(IDS, model_of().init_state(3)), "is [3, "),
        (asked(IDS, model_of(depth=2).init_state(2)), 'model: state has "block1.'),
        (asked(IDS, model_of(width=16).init_state(2)), "for these tokens"),
        (asked(IDS, model_of(memory={"rule": "delta"}).init_state(2)), 'model: state has no "block0.memory.'),
    ],
)  # fmt: skip
def test_what_is_given_to_a_model_wrongly_is_one_line(call: Callable[[], Any], line: str) -> None:
    one_line(call, line)


def read(x: Any = None, state: Any = None, **more: Any) -> Callable[[], Any]:
    return lambda: layer_of("titans", "chunkwise")(sentence() if x is None else x, state, **more)


def foreign(rule: str = "titans", batch: int = 2, **options: Any) -> State:
    return layer_of(rule, "sequential", **options).init_state(batch)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (read([1.0]), "MemoryLayer: x is a list; expected a tensor [B, T, 8]"),
        (read(sentence().double()), "MemoryLayer: x is torch.float64; expected torch.float32, as the weights"),
        (read(sentence().long()), "MemoryLayer: x is torch.int64; expected torch.float32, as the weights"),
        (read(sentence().to("meta")), "MemoryLayer: x is on meta; expected cpu, as the weights"),
        (read(write=torch.ones(2, 9)), "MemoryLayer: write is torch.float32 [2, 9]; expected bool"),
        (read(starts=torch.ones(9).bool()), "MemoryLayer: starts is torch.bool [9]; expected bool [B, T]"),
        (read(state=torch.zeros(2)), "MemoryLayer: state is a Tensor; expected the State of init_state(batch)"),
        (read(state=foreign("delta")), 'MemoryLayer: state has no "level0.rule.momentum.matrix"; expected a state of'),
        (read(state=foreign(levels=(1,))), 'MemoryLayer: state has no "level1.'),
        (read(state=foreign(batch=3)), "MemoryLayer: state.level0.front."),
        (read(state=foreign(conv=2)), "MemoryLayer: state.level0.front."),
    ],
)  # fmt: skip
def test_what_is_given_to_a_layer_wrongly_is_one_line(call: Callable[[], Any], line: str) -> None:
    one_line(call, line)


def one_line(call: Callable[[], Any], line: str) -> None:
    with pytest.raises(HecateError, match=re.escape(line)) as error:
        call()
    assert "\n" not in str(error.value)
