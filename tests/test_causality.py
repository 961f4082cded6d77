"""Changing token j changes no output before j, bit for bit, for everything registered."""

import pytest
import torch

from hecate_core.mixer import Mixer
from hecate_core.shapes import Tensor
from hecate_core.testing.members import SCHEDULES, WIDTH, Cell, tiny_mixer

from .thinned import thinned_cells, thinned_schedules

COUNT = 17  # tokens: several chunks, grains and resets of every schedule, and a ragged end
CHANGED = (1, 5, 12)  # inside a chunk, at a grain border, at a chunk border


def outputs(mixer: Mixer, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = mixer(x, mixer.init_state(x.shape[0]))[0]
    return y


def sentence(dtype: torch.dtype) -> Tensor:
    return torch.randn(2, COUNT, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("cell", "schedule"), thinned_schedules())
def test_later_tokens_change_no_earlier_output(cell: Cell, schedule: str) -> None:
    mixer, x = tiny_mixer(cell, SCHEDULES[schedule]), sentence(torch.float64)
    expected = outputs(mixer, x)
    for j in CHANGED:
        other = x.clone()
        other[:, j] = -3.0 * x[:, j] + 1.0
        y = outputs(mixer, other)
        assert torch.equal(y[:, :j], expected[:, :j]), f"token {j}"
        assert not torch.equal(y[:, j], expected[:, j]), f"token {j} has no influence on its own output"


@pytest.mark.parametrize("cell", thinned_cells())
def test_huge_later_tokens_change_no_earlier_output_in_float32(cell: Cell) -> None:
    mixer, x = tiny_mixer(cell, dtype=torch.float32), sentence(torch.float32)
    other = x.clone()
    other[:, 9:] = 1e4
    assert torch.equal(outputs(mixer, other)[:, :9], outputs(mixer, x)[:, :9])


@pytest.mark.parametrize("cell", thinned_cells())
def test_write_mask_of_later_tokens_changes_no_earlier_output(cell: Cell) -> None:
    mixer, x = tiny_mixer(cell), sentence(torch.float64)
    masks = [torch.ones(2, COUNT, dtype=torch.bool) for _ in range(2)]
    masks[1][:, 10:] = False
    with torch.no_grad():
        one, two = (mixer(x, mixer.init_state(2), write)[0] for write in masks)
    assert torch.equal(one[:, :10], two[:, :10])
    if cell.rule is not None:
        assert not torch.equal(one, two)


@pytest.mark.parametrize("cell", thinned_cells())
def test_rows_do_not_see_each_other(cell: Cell) -> None:
    mixer, x = tiny_mixer(cell, SCHEDULES["1-3"]), sentence(torch.float64)
    other = torch.cat((x[:1], torch.zeros_like(x[1:])))
    assert torch.equal(outputs(mixer, other)[0], outputs(mixer, x)[0])
