"""What a config will ask of memory at its real size, counted on the meta device: shapes and no numbers."""

from collections.abc import Iterator
from typing import Any

import attrs
import torch

from hecate_core.blueprint import compose, levels_in
from hecate_core.config import Config
from hecate_core.errors import HecateError
from hecate_core.model import LanguageModel, next_token_loss
from hecate_core.records import State
from hecate_core.registry import registry
from hecate_core.shapes import Tensor

LONGEST = 512  # tokens that are run on the meta device; more are scaled up in proportion
MIB = 1 << 20


@attrs.frozen
class Estimate:
    """Bytes of one kind, and how they were found."""

    name: str
    bytes: int
    note: str = ""

    @property
    def line(self) -> str:
        """`parameters  1.2 MiB`."""
        return f"{self.name}: {self.bytes / MIB:.1f} MiB" + (f" ({self.note})" if self.note else "")

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return attrs.asdict(self)


def estimate(config: Config) -> list[Estimate]:
    """Parameters, gradients, optimizer, carried memory and saved activations of one optimizer step, and their sum.

    What an op needs only for a moment is not counted. Raises HecateError where the model cannot be composed.
    """
    dtype = getattr(torch, config.run.dtype)
    with torch.device("meta"):
        try:
            model = compose(config).to(dtype)
        except (RuntimeError, NotImplementedError) as error:
            raise HecateError(f"memory estimate: a part cannot be made without numbers ({error})") from error
        state = model.init_state(config.data.batch)
        rows = list(_rows(config, model, state))
    return [*rows, Estimate("sum", sum(row.bytes for row in rows))]


def _rows(config: Config, model: LanguageModel, state: State) -> Iterator[Estimate]:
    parameters = sum(one.numel() * one.element_size() for one in model.parameters())
    count = sum(one.numel() for one in model.parameters())
    yield Estimate("parameters", parameters, f"{count:,} numbers in {config.run.dtype}")
    yield Estimate("gradients", parameters)
    yield Estimate("optimizer", _optimizer(config, model))
    carried = sum(_size(one) for one in state.flat().values())
    yield Estimate("carried memory", 2 * carried, f"{config.data.batch} rows, before and after a step")
    length = min(config.data.length, LONGEST)
    saved = _saved(config, model, state, length) * config.data.length // length
    scaled = "" if length == config.data.length else f", in proportion from {length}"
    yield Estimate("saved activations", saved, f"{config.data.batch} x {config.data.length} tokens{scaled}")


def _optimizer(config: Config, model: LanguageModel) -> int:
    made = registry().create("optimizer", config.optimizer, named_parameters=model, levels=levels_in(config))
    return sum(_size(one) for slot in made.state.values() for one in slot.values())


def _saved(config: Config, model: LanguageModel, state: State, length: int) -> int:
    """Bytes that the backward pass finds saved, every storage counted once; parameters are not."""
    own = {one.untyped_storage()._cdata for one in model.parameters()}
    seen: dict[int, int] = {}
    kept: list[Tensor] = []  # an address is an identity only while its storage lives

    def pack(one: Tensor) -> Tensor:
        key = one.untyped_storage()._cdata
        if key not in own and key not in seen:
            seen[key] = one.untyped_storage().nbytes()
            kept.append(one)
        return one

    ids = torch.zeros(config.data.batch, length, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        next_token_loss(model(ids, state)[0], ids)
    return sum(seen.values())


def _size(one: Tensor) -> int:
    return one.numel() * one.element_size()
