"""The op `affine` in plain torch: chunks as long as its reference takes them, whatever the tokens declare."""

import pytest
import torch

from hecate_core.ops.affine import AffineTokens, affine
from hecate_core.ops.affine_reference import longest
from hecate_core.shapes import Tensor

from .sequences import relative

EXACT = 1e-10  # float64: two orders of the same sums
COUNT, CHUNK = 150, 64  # two whole chunks and a part of one


def leaves(width: int, declared: tuple[str, ...]) -> dict[str, Tensor]:
    """Tokens with the optional coefficients that are `declared`, and first memories."""
    random = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    def gate() -> Tensor:
        return torch.rand(2, 1, COUNT, generator=random, dtype=torch.float64)

    q, k = (torch.nn.functional.normalize(normal(2, 1, COUNT, width), dim=-1) for _ in range(2))
    made = {"q": q, "k": k, "v": normal(2, 1, COUNT, 3), "keep": gate(), "write": gate()}
    made |= {name: gate() for name in declared}
    made["memory"] = normal(2, 1, 3, width)
    if "momentum" in declared:
        made["surprise"] = normal(2, 1, 3, width)
    return {name: one.requires_grad_() for name, one in made.items()}


def results(given: dict[str, Tensor], chunk: int) -> list[Tensor]:
    """Reads, last memories and the gradients of a scalar that sees all of them."""
    tokens = AffineTokens(*(given.get(name) for name in AffineTokens._fields))  # type: ignore[arg-type]
    found = affine(tokens, given["memory"], given.get("surprise"), chunk)
    outs = [one for one in found if one is not None]
    loss = sum((one * one.detach().cos()).sum() for one in outs)
    return [*outs, *torch.autograd.grad(loss, list(given.values()))]  # type: ignore[arg-type]


@pytest.mark.parametrize("declared", [(), ("erase",), ("erase", "momentum"), ("erase", "momentum", "inject")])
def test_the_longest_chunks_of_a_wide_memory_equal_short_ones(declared: tuple[str, ...]) -> None:
    width = 65
    assert longest(width, 3) == CHUNK  # else this compares short chunks with short ones
    given = leaves(width, declared)
    for found, expected in zip(results(given, CHUNK), results(given, 7), strict=True):
        assert relative(found, expected) < EXACT


def test_inputs_in_any_order_of_storage_give_the_same() -> None:
    given = leaves(8, ("erase", "momentum"))
    turned = {
        name: one.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_() for name, one in given.items()
    }
    for found, expected in zip(results(turned, 16), results(given, 16), strict=True):
        assert relative(found, expected) < EXACT
