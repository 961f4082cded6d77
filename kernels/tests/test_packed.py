"""cu_seqlens: sequences packed in one row have the result that each has alone, on every backend."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from hecate_core import memory
from hecate_core.api import CompositionError, InputError, State

ENDS = [0, 5, 5, 22, 23, 40]  # lengths 5, 0, 17, 1, 17
HEADS, WIDTH = 2, 16
EXACT = {"reference": 1e-12, "host": 2e-6}  # float64; the kernels are fp32 and meet other chunks
RULES = {
    "linear": [],
    "delta": ["retain", "write"],
    "titans": ["retain", "write", "momentum"],
    "kda": ["retain", "write"],
}


def _given(rule: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(3)
    q, k, v = (torch.randn(1, HEADS, ENDS[-1], WIDTH, dtype=dtype) for _ in range(3))
    k = torch.nn.functional.normalize(k, dim=-1)
    gates = {name: 0.3 + 0.6 * torch.rand(1, HEADS, ENDS[-1], dtype=dtype) for name in RULES[rule]}
    if rule == "kda":
        gates["retain"] = 0.3 + 0.6 * torch.rand(1, HEADS, ENDS[-1], WIDTH, dtype=dtype)
    tokens = {"q": q, "k": k, "v": v}
    return {name: one.requires_grad_() for name, one in tokens.items()}, {
        n: g.requires_grad_() for n, g in gates.items()
    }


def _alone(rule: str, tokens: dict[str, Tensor], gates: dict[str, Tensor], state: State, **more: Any) -> Any:
    """Every sequence by a call of its own."""
    reads, ends = [], []
    for n, (begin, end) in enumerate(pairwise(ENDS)):
        cut = {name: one[:, :, begin:end] for name, one in tokens.items()}
        cut_gates = {name: one[:, :, begin:end] for name, one in gates.items()}
        row = state.map(lambda one, n=n: one[n : n + 1])  # type: ignore[misc]
        y, after = memory(**cut, rule=rule, gates=cut_gates, state=row, **more)
        reads.append(y)
        ends.append(after)
    return torch.cat(reads, 2), {name: torch.cat([one.flat()[name] for one in ends]) for name in ends[0].flat()}


@pytest.mark.parametrize("backend", ["reference", "host"])
@pytest.mark.parametrize("rule", list(RULES))
def test_packed_sequences_have_their_own_states_and_results(rule: str, backend: str) -> None:
    dtype = torch.float64 if backend == "reference" else torch.float32
    tokens, gates = _given(rule, dtype)
    count = len(ENDS) - 1
    x = torch.zeros(count, HEADS, 1, WIDTH, dtype=dtype)
    start = {
        name: torch.ones_like(one[:, :, :1]).expand(count, *one[:, :, :1].shape[1:]) for name, one in gates.items()
    }
    _, state = memory(x, x, x, rule=rule, gates=start)
    state = state.map(lambda one: torch.randn_like(one))
    given = [*tokens.values(), *gates.values()]
    y, after = memory(**tokens, rule=rule, gates=gates, state=state, cu_seqlens=torch.tensor(ENDS), backend=backend)
    expected, ends = _alone(rule, tokens, gates, state, backend=backend)
    assert y.shape == expected.shape
    assert torch.allclose(y, expected, rtol=0, atol=EXACT[backend] * 10)
    for name, one in after.flat().items():
        assert torch.allclose(one, ends[name], rtol=0, atol=EXACT[backend] * 10), name
    weight = torch.randn_like(y)
    found = torch.autograd.grad((y * weight).sum(), given)
    wanted = torch.autograd.grad((expected * weight).sum(), given)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=EXACT[backend] * 100)
    assert torch.equal(after.flat()[next(iter(ends))][1], state.flat()[next(iter(ends))][1])  # an empty sequence


def test_masks_and_starts_go_with_their_tokens() -> None:
    tokens, gates = _given("titans", torch.float64)
    marks = torch.rand(2, 1, ENDS[-1]) > torch.tensor([0.3, 0.8]).view(2, 1, 1)
    write, starts = marks[0], marks[1]
    y, _ = memory(**tokens, rule="titans", gates=gates, write_mask=write, starts=starts, cu_seqlens=torch.tensor(ENDS))
    for begin, end in pairwise(ENDS):
        cut = {name: one[:, :, begin:end] for name, one in tokens.items()}
        cut_gates = {name: one[:, :, begin:end] for name, one in gates.items()}
        alone, _ = memory(
            **cut, rule="titans", gates=cut_gates, write_mask=write[:, begin:end], starts=starts[:, begin:end]
        )
        assert torch.allclose(y[:, :, begin:end], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([0, 5, 39], r"cu_seqlens: 0 \.\.\. 39; expected ascending numbers from 0 to T = 40"),
        ([1, 5, 40], "expected ascending numbers from 0"),
        ([0, 9, 5, 40], "expected ascending"),
        ([40], r"cu_seqlens is torch.int64 \[1\]; expected int32 or int64 \[N \+ 1\]"),
    ],
)
def test_marks_that_do_not_fit_are_refused(ends: list[int], message: str) -> None:
    tokens, gates = _given("delta", torch.float32)
    with pytest.raises(InputError, match=message):
        memory(**tokens, rule="delta", gates=gates, cu_seqlens=torch.tensor(ends))


def test_what_would_not_be_exact_is_refused_with_the_reason() -> None:
    tokens, gates = _given("titans", torch.float32)
    ends = torch.tensor(ENDS)
    with pytest.raises(CompositionError, match='strategy "frozen" depends on the position'):
        memory(**tokens, rule="titans", gates=gates, strategy="frozen", cu_seqlens=ends)
    with pytest.raises(CompositionError, match='rule "yaad" is not affine'):
        memory(**tokens, rule="yaad", gates=gates, strategy="sequential", cu_seqlens=ends)
    two = {name: one.expand(2, -1, -1, -1) for name, one in tokens.items()}
    with pytest.raises(InputError, match="q has 2 rows; expected one"):
        memory(**two, rule="titans", gates=gates, cu_seqlens=ends)
