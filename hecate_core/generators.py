"""Private random generators of a run: seeded by name, saved as bytes, apart from the global ones."""

import hashlib
import json
import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hecate_core.errors import CheckpointError, InputError


class Generators:
    """The random numbers of one run: `python`, `stream` and one torch generator per device.

    Each generator's seed is derived from `seed` and its own name, so that using one never moves
    another. Global generators of Python and torch are neither read nor changed. `seed` is an
    integer in [0, 2**63); anything else raises InputError.
    """

    def __init__(self, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise InputError(f"seed = {seed!r}; expected an integer from 0 to 2**63 - 1")
        self.seed = seed
        self.python = random.Random(self._derived("python"))
        self.stream = random.Random(self._derived("stream"))
        self._torch: dict[str, torch.Generator] = {}
        self.torch()

    def _derived(self, name: str) -> int:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def torch(self, device: str | torch.device = "cpu") -> torch.Generator:
        """The torch generator of a device, made at its first use."""
        name = str(torch.device(device))
        if name not in self._torch:
            self._torch[name] = torch.Generator(device=device).manual_seed(self._derived(f"torch.{name}"))
        return self._torch[name]

    def state(self) -> dict[str, Tensor]:
        """Every generator's state as uint8 tensors on the CPU, by `python`, `stream`, `torch.<device>`."""
        found = {"python": _bytes_of(self.python), "stream": _bytes_of(self.stream)}
        return found | {f"torch.{name}": one.get_state() for name, one in self._torch.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state()`; raises CheckpointError for a missing, unknown or damaged entry."""
        for name in ("python", "stream", "torch.cpu"):
            if name not in state:
                raise CheckpointError(f"generators.{name} is missing; expected its bytes")
        python, stream = _random_from(state, "python"), _random_from(state, "stream")
        restored: dict[str, torch.Generator] = {}
        for name, tensor in state.items():
            if name in ("python", "stream"):
                continue
            try:
                device = name.removeprefix("torch.")
                restored[device] = torch.Generator(device=device)
                restored[device].set_state(tensor)
            except (RuntimeError, TypeError) as error:
                raise CheckpointError(f"generators.{name}: {_line(error)}; expected the state of a generator") from None
        self.python, self.stream, self._torch = python, stream, restored


def _bytes_of(generator: random.Random) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(generator.getstate()).encode()), dtype=torch.uint8)


def _random_from(state: Mapping[str, Tensor], name: str) -> random.Random:
    try:
        version, words, spare = json.loads(bytes(state[name].tolist()))
        generator = random.Random()
        generator.setstate((version, tuple(words), spare))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"generators.{name}: {_line(error)}; expected the state of a generator") from None
    return generator


def _line(error: Any) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
