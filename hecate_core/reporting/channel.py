"""What every level of a chain of MLPs adds to its block, and how far a FAST one moves while it reads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen
from torch import nn

from hecate_core.model import LanguageModel
from hecate_core.observing import chains_of, observe
from hecate_core.records import State
from hecate_core.shapes import Int, Tensor


@frozen
class ChannelLevel:
    """One level of one block's chain, over the tokens of a text.

    `place` is 0 for the fastest, `level` the same level as an optimizer counts them (those of the memory first).
    `share` is the length of what it adds over the length of what it was given, a mean over the tokens; `effect` what
    silencing it costs, in bits per token. `change` is the length of what a FAST level has added to its weights
    (Frobenius) after each of its pieces of text, None for a level that does not learn while it reads.
    """

    block: int
    place: int
    level: int
    share: float
    effect: float
    change: Tensor | None

    @property
    def name(self) -> str:
        """`block 0, channel level 1`."""
        return f"block {self.block}, channel level {self.place}"


def channel_levels(
    model: LanguageModel, ids: Int[Tensor, "1 T"], targets: Int[Tensor, "1 T"], bits: Callable[[], float]
) -> tuple[ChannelLevel, ...]:
    """Every level of every chain; `bits` is what one reading of the text costs, in bits per counted token."""
    chains, changes, whole = chains_of(model), _changes(model, ids, targets), bits()
    found = []
    for name, chain in chains.items():
        for place, mlp in enumerate(chain.levels):
            lengths: list[Tensor] = []
            with _hooked(mlp, lambda _, given, made, kept=lengths: kept.append(_share(given[0], made))):
                bits()
            with _hooked(mlp, lambda _, __, made: torch.zeros_like(made)):
                silent = bits()
            found.append(
                ChannelLevel(
                    block=int(name.removeprefix("block")),
                    place=place,
                    level=int(getattr(mlp, "hecate_level", place)),
                    share=float(torch.stack(lengths).mean()),
                    effect=silent - whole,
                    change=changes.get(f"{name}.channel.level{place}"),
                )
            )
    return tuple(found)


def _share(given: Tensor, made: Tensor) -> Tensor:
    lengths = given.double().norm(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
    share: Tensor = made.double().norm(dim=-1) / lengths
    return share.mean()


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _changes(model: LanguageModel, ids: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """By path of a FAST level: |change| after each piece of the text, as learning while reading leaves it."""
    fast = {
        f"{name}.channel.level{place}": chain.finest()
        for name, chain in chains_of(model).items()
        for place, spec in enumerate(chain.specs)
        if spec.rate
    }
    if not fast:
        return {}
    piece, state = min(fast.values()), model.init_state(1)
    kept: dict[str, list[float]] = {path: [] for path in fast}
    for begin in range(0, ids.shape[1], piece):
        state = observe(model, ids[:, begin : begin + piece], targets[:, begin : begin + piece], state).state
        for path, lengths in kept.items():
            lengths.append(_length(state, path))
    return {path: torch.tensor(lengths, dtype=torch.float64) for path, lengths in kept.items()}


def _length(state: State, path: str) -> float:
    parts = [one for name, one in state.flat().items() if name.startswith(f"{path}.change.")]
    return float(torch.stack([torch.linalg.vector_norm(one.double()) for one in parts]).norm())
