"""`memory(...)` at its door: shapes, names, ranges, finiteness, states; each refusal one line that names the place."""

from typing import Any

import pytest
import torch

import hecate_core
from hecate_core import memory
from hecate_core.composing import rule_of
from hecate_core.errors import CompositionError, HecateError, InputError

from .sequences import sequence


def call(**changes: Any) -> Any:
    inputs, gates = sequence(rule_of("titans"), 9)
    given: dict[str, Any] = {**inputs, "rule": "titans", "gates": gates}
    return memory(**{**given, **changes})


def with_value(name: str, value: float) -> Any:
    inputs, gates = sequence(rule_of("titans"), 9)
    if name in gates:
        gates[name][0, 1, 4] = value
        return call(gates=gates)
    inputs[name][0, 1, 4, 0] = value
    return call(**inputs)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rule": "titan"}, 'did you mean "titans"?'),
        ({"strategy": "chunkwize"}, 'did you mean "chunkwise"?'),
        ({"backend": "abacus"}, 'backend "abacus"'),
        ({"chunk_size": 0}, "expected an integer >= 1"),
        ({"gates": {}}, 'gate "retain" is missing'),
        ({"q": torch.zeros(2, 2, 9)}, "q is [2, 2, 9]"),
        ({"v": torch.zeros(2, 2, 8, 4)}, "v is [2, 2, 8, 4]"),
        ({"k": torch.zeros(2, 2, 9, 6)}, "k has width 6; expected K = 5"),
        ({"keys": torch.zeros(2, 2, 9, 6)}, 'unknown input "keys"'),
        ({"params": {"matrx": torch.zeros(2, 4, 5)}}, 'unknown parameter "matrx"; did you mean "matrix"?'),
        (
            {"write_mask": torch.ones(2, 8, dtype=torch.bool)},
            "write_mask is torch.bool [2, 8]; expected bool [B, T] = [2, 9]",
        ),
    ],
)
def test_refusals_are_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(HecateError) as error:
        call(**changes)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["q", "k", "v", "retain", "write", "momentum"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} holds (NaN|Inf)"):
        with_value(name, value)


@pytest.mark.parametrize(("name", "value"), [("retain", 1.1), ("retain", -0.1), ("write", -1e-9), ("momentum", 1.5)])
def test_gates_outside_their_domain_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"gate {name} goes from"):
        with_value(name, value)


def test_a_state_of_another_rule_or_batch_is_refused() -> None:
    inputs, gates = sequence(rule_of("delta"), 9)
    _, foreign = memory(**inputs, rule="delta", gates=gates)
    with pytest.raises(InputError, match=r'state has no "momentum\.matrix"'):
        call(state=foreign)
    _, own = call()
    with pytest.raises(InputError, match=r"state\.memory\.matrix is \[1, 2, 4, 5\]; expected \[2, 2, 4, 5\]"):
        call(state=own.rows(torch.tensor([0])))


def test_a_rule_without_the_form_is_refused_with_its_reason() -> None:
    with pytest.raises(CompositionError, match=r"not linear in its weights.*sequential"):
        hecate_core.MemoryLayer(8, 2, rule="titans-deep")


def of_state(change: Any) -> Any:
    """`call` with a carried state after a change."""
    _, state = call()
    return call(state=change(state))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: call(q=torch.ones(2, 2, 9, 5, dtype=torch.int64)), "q is torch.int64; expected a tensor of float32, "),
        (lambda: call(k=torch.ones(2, 2, 9, 5, dtype=torch.complex64)), "k is torch.complex64; expected a tensor"),
        (lambda: call(gates={"retain": 0.9, "write": 0.1, "momentum": 0.5}), "retain is float; expected a tensor"),
        (lambda: call(write_mask=torch.ones(2, 9)), "write_mask is torch.float32 [2, 9]; expected bool [B"),
        (lambda: of_state(lambda state: state.map(lambda one: one * float("nan"))), "state: memory.matrix holds NaN"),
        (lambda: of_state(lambda state: state.map(torch.Tensor.bfloat16)), "is torch.bfloat16; expected float32 or"),
        (lambda: of_state(lambda state: state.flat()), "state is a dict; expected the State"),
        (lambda: of_state(lambda state: state.replace(anchor=torch.zeros(2))), 'state has "anchor"; expected a'),
    ],
)  # fmt: skip
def test_what_is_no_number_or_no_state_of_ours_is_refused_in_one_line(make: Any, line: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_state_with_more_than_this_rule_keeps_is_refused() -> None:
    """Momentum would ride along unseen, and an anchor would be read when it is old."""
    _, state = call()
    gates = {name: one for name, one in sequence(rule_of("delta"), 9)[1].items()}
    with pytest.raises(InputError, match=r'state has "momentum\.matrix"; expected a state of this rule and strategy'):
        call(rule="delta", gates=gates, state=state)


@pytest.mark.parametrize(
    ("options", "line"),
    [({"conv_streams": ["z"]}, 'conv_streams: "z"; expected some of q, k, v'), ({"grain": 0}, "grain = 0; expected")],
)  # fmt: skip
def test_a_layer_refuses_what_a_config_refuses(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        hecate_core.MemoryLayer(8, heads=2, **options)


def test_state_carries_its_position_and_gradients_reach_it() -> None:
    _, state = call()
    assert state.position == 9
    start = state.map(lambda tensor: tensor.clone().requires_grad_())
    _, gates = sequence(rule_of("titans"), 9)
    y, after = call(state=start, gates={name: one.clamp(min=0.1) for name, one in gates.items()})
    assert after.position == 18
    (y.sum() + after.memory.matrix.sum()).backward()
    for name, tensor in start.flat().items():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().sum() > 0, name


def test_unknown_names_of_the_package_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="memry"):
        _ = hecate_core.memry
