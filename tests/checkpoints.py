"""What the tests of checkpoints save, how they compare it, and how a folder is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hecate_core.checkpoint import load
from hecate_core.errors import CheckpointError, ExitCode

META: dict[str, Any] = {"step": 7, "cursor": {"position": 12}, "rate": 0.1 + 0.2, "note": "\u00e9", "none": None}


def parts_of(step: int) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model": {"a.weight": torch.randn(5, 3, generator=generator), "a.bias": torch.full((3,), float(step))},
        "optimizer": {"exp_avg/a.weight": torch.randn(5, 3, generator=generator)},
    }


def same(one: dict[str, dict[str, Tensor]], two: dict[str, dict[str, Tensor]]) -> bool:
    return {p: set(t) for p, t in one.items()} == {p: set(t) for p, t in two.items()} and all(
        tensor.dtype == two[part][name].dtype and torch.equal(tensor, two[part][name])
        for part, tensors in one.items()
        for name, tensor in tensors.items()
    )


def refused(folder: Path, match: str | None = None) -> str:
    """The one line that a folder is refused with."""
    with pytest.raises(CheckpointError, match=match) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert message.startswith(str(folder))
    assert caught.value.exit_code == ExitCode.UNREADABLE
    return message
