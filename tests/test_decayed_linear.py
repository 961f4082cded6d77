"""The op `decayed_linear` and the channel form against a loop that forms every memory."""

import pytest
import torch

from hecate_core.forms import Factors
from hecate_core.ops.decay import products
from hecate_core.ops.decayed_linear import REFERENCE, Reads, decayed_linear, decays
from hecate_core.strategies.channels import GrownChannels
from hecate_core.strategies.grown import Grown, stacked

EXACT = 1e-12  # float64, sums over at most seven tokens
COUNT = 7

Drawn = dict[str, torch.Tensor]


def drawn(seed: int = 0) -> Drawn:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    found = {
        "q": normal(2, 3, COUNT, 4),
        "u": normal(2, 3, COUNT, 5),
        "x": normal(2, 3, COUNT, 4),
        "memory": normal(2, 3, 5, 4),
        "momentum": normal(2, 3, 5, 4),
        "keep": torch.rand(2, 3, COUNT, generator=g, dtype=torch.float64),
        "eta": torch.rand(2, 3, COUNT, generator=g, dtype=torch.float64),
        "inject": normal(2, 3, COUNT),
    }
    found["keep"][0, 0, 3] = 0.0  # a gate may reach 0 exactly
    found["eta"][1, 2, 2] = 0.0
    return {name: one.requires_grad_() for name, one in found.items()}


def loop(d: Drawn, *, momentum: bool, inject: bool, axis: str = "scalar") -> tuple[torch.Tensor, ...]:
    """Token by token with every matrix formed: reads, last memory, last momentum."""
    a, s, reads = d["memory"], d["momentum"], []
    for t in range(COUNT):
        step = d["u"][:, :, t, :, None] * d["x"][:, :, t, None, :]
        if momentum:
            s = d["eta"][:, :, t, None, None] * s + step
        if momentum or inject:
            step = (s if momentum else step) * (d["inject"][:, :, t, None, None] if inject else 1.0)
        keep = d["keep"][:, :, t]
        wide = {"scalar": keep[..., None, None], "column": keep.unsqueeze(2), "row": keep.unsqueeze(-1)}
        a = wide[axis] * a + step
        reads.append((a @ d["q"][:, :, t, :, None]).squeeze(-1))
    return (torch.stack(reads, 2), a, s) if momentum else (torch.stack(reads, 2), a)


def op(d: Drawn, *, momentum: bool, inject: bool) -> tuple[torch.Tensor, ...]:
    shares = decays(d["keep"], d["eta"] if momentum else None, d["inject"] if inject else None)
    stored = torch.stack((d["memory"], d["momentum"]), 2) if momentum else d["memory"].unsqueeze(2)
    y, end, memory = decayed_linear(Reads(d["q"], d["u"], d["x"]), stored, shares)
    return (y, memory, end[:, :, 1]) if momentum else (y, end[:, :, 0])


CASES = [(False, False), (True, False), (True, True), (False, True)]


@pytest.mark.parametrize(("momentum", "inject"), CASES)
def test_op_is_the_loop_forward_and_backward(momentum: bool, inject: bool) -> None:
    d = drawn()
    found, expected = op(d, momentum=momentum, inject=inject), loop(d, momentum=momentum, inject=inject)
    weights = [torch.randn_like(one) for one in expected]
    for f, e in zip(found, expected, strict=True):
        assert torch.allclose(f, e, rtol=EXACT, atol=EXACT)
    sums = [sum((one * w).sum() for one, w in zip(ys, weights, strict=True)) for ys in (found, expected)]
    for name, f, e in zip(
        d, *(torch.autograd.grad(one, list(d.values()), allow_unused=True) for one in sums), strict=True
    ):
        assert (f is None) == (e is None), name
        assert f is None or torch.allclose(f, e, rtol=1e-10, atol=EXACT), name


def test_gradients_agree_with_finite_differences() -> None:
    d = drawn(1)
    names = list(d)

    def flat(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return op(dict(zip(names, tensors, strict=True)), momentum=True, inject=True)

    safe = [d[name].detach().clamp(min=0.1) if name in ("keep", "eta") else d[name].detach() for name in names]
    assert torch.autograd.gradcheck(flat, [one.requires_grad_() for one in safe], fast_mode=True)


def test_ends_alone_and_reads_alone_have_gradients() -> None:
    d = drawn()
    for index in range(3):
        found = torch.autograd.grad(op(d, momentum=True, inject=False)[index].square().sum(), d["x"])[0]
        expected = torch.autograd.grad(loop(d, momentum=True, inject=False)[index].square().sum(), d["x"])[0]
        assert torch.allclose(found, expected, rtol=1e-10, atol=EXACT)


def test_weights_that_no_read_touched_still_advance() -> None:
    d = drawn()
    _, memory, momentum = loop(d, momentum=True, inject=False)
    stored = stacked({"w": d["memory"]}, {"w": d["momentum"]})
    grown = Grown(stored, {"w": (d["u"], d["x"])}, decays(d["keep"], d["eta"], None), REFERENCE)
    end = grown.last()["w"]
    assert torch.allclose(end.memory, memory, rtol=EXACT, atol=EXACT)
    assert torch.allclose(end.both[:, :, 1], momentum, rtol=EXACT, atol=EXACT)
    every = grown.every("w")
    assert torch.allclose(every[:, :, -1], memory, rtol=EXACT, atol=EXACT)
    read = (every @ d["q"].unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(read, loop(d, momentum=True, inject=False)[0], rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("axis", ["column", "row"])
@pytest.mark.parametrize("momentum", [False, True])
def test_channel_decay_is_the_loop_even_where_it_is_negative(axis: str, momentum: bool) -> None:
    d = drawn()
    g = torch.Generator().manual_seed(4)
    width = 4 if axis == "column" else 5
    d["keep"] = (1.5 * torch.rand(2, 3, COUNT, width, generator=g, dtype=torch.float64) - 0.5).requires_grad_()
    expected = loop(d, momentum=momentum, inject=False, axis=axis)
    stored = stacked({"w": d["memory"]}, {"w": d["momentum"]} if momentum else None)
    factors = Factors(d["keep"], {"w": (d["u"], d["x"])}, d["eta"] if momentum else None)
    grown = GrownChannels(stored, factors, axis)
    found = (grown.apply("w", d["q"]), grown.last()["w"].memory)
    for f, e in zip(found, expected[:2], strict=True):
        assert torch.allclose(f, e, rtol=EXACT, atol=EXACT)
    for f, e in zip(
        torch.autograd.grad(found[0].square().sum(), (d["keep"], d["u"], d["x"])),
        torch.autograd.grad(expected[0].square().sum(), (d["keep"], d["u"], d["x"])),
        strict=True,
    ):
        assert torch.allclose(f, e, rtol=1e-10, atol=EXACT)
    formed = (grown.every("w") @ d["q"].unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(formed, expected[0], rtol=EXACT, atol=EXACT)


def test_signed_products_are_products() -> None:
    a = torch.tensor([0.5, -2.0, 0.0, -1.0, 3.0], dtype=torch.float64)
    found = products(a, signed=True)
    for t in range(6):
        for i in range(6):
            expected = a[i:t].prod().item() if i <= t else 0.0
            assert found[t, i].item() == pytest.approx(expected, rel=1e-13)
