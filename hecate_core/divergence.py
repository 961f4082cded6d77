"""Where a run stopped being finite: the first layer, level and quantity, and a bundle that repeats it.

A bundle is a checkpoint `RUN/diverged-N`: parameters, optimizer and memory as they were before step N, and the chunk of
the step that went wrong with the memory before it. `reproduce` runs it again.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import nn

from hecate_core.blueprint import compose
from hecate_core.checkpoint import load, save
from hecate_core.config import make_config
from hecate_core.errors import CheckpointError
from hecate_core.model import LanguageModel, next_token_loss
from hecate_core.records import Record, State, positions_of, unflat
from hecate_core.run_folder import Parts, load_module
from hecate_core.shapes import Bool, Int, Tensor

_BLOCK = re.compile(r"\bblocks?\.?(\d+)\.?")
_LEVEL = re.compile(r"\blevels?\.?(\d+)\.?")


@frozen
class Read:
    """A chunk as a step read it: ids and targets `[B, T]`, the memory before them, and where documents begin."""

    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    state: State
    starts: Bool[Tensor, "B T"] | None = None


@frozen
class Place:
    """What is not finite: a block (None outside of them), a level (None outside of a memory), a quantity."""

    block: int | None
    level: int | None
    quantity: str

    @classmethod
    def of(cls, path: str, quantity: str) -> "Place":
        """Block and level read off a dotted path, `blocks.0.mixer.memory.levels.1` or `block0.memory.level1.rule`."""
        block, level = (found and int(found[1]) for found in (_BLOCK.search(path), _LEVEL.search(path)))
        return cls(block, level, quantity)

    def __str__(self) -> str:
        where = [
            f"{name} {index}" for name, index in (("block", self.block), ("level", self.level)) if index is not None
        ]
        return ", ".join([*where, self.quantity])


def first_not_finite(
    model: LanguageModel, read: Read, autocast: AbstractContextManager[Any] | None = None
) -> Place | None:
    """The first number that is not finite: parameters, then the memory before, then the forward in its order, the loss.

    None where the forward is finite throughout.
    """
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if not _finite(parameter):
            return Place.of(name, f"parameter {name}")
    for name, tensor in read.state.flat().items():
        if not _finite(tensor):
            return Place.of(name, f"state {name} before the chunk")
    return _in_the_forward(model, read, autocast or nullcontext())


def _in_the_forward(model: LanguageModel, read: Read, autocast: AbstractContextManager[Any]) -> Place | None:
    """Modules report when they are done, inner ones first; a memory that went wrong comes before what it answered."""
    found: list[Place] = []

    def watch(name: str) -> Any:
        def hook(_: nn.Module, __: Any, result: Any) -> None:
            if not found:
                found.extend(_in_result(name, result))

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        with autocast:
            logits, _ = model(read.ids, read.state, starts=read.starts)
            loss = next_token_loss(logits, read.targets)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None if _finite(loss) else Place(None, None, "the loss of finite logits")


def _in_result(name: str, result: Any) -> Iterator[Place]:
    """What is not finite in a module's result: its state, then the rest."""
    parts = result if isinstance(result, tuple) else (result,)
    for part in sorted(parts, key=lambda one: not isinstance(one, State)):
        tensors = part.flat() if isinstance(part, Record) else {"": part} if isinstance(part, Tensor) else {}
        for path, tensor in tensors.items():
            if not _finite(tensor):
                what = f"state {path}" if isinstance(part, State) else f"output {path}".strip()
                yield Place.of(f"{name}.{path}", f"{what} of {name or 'the model'}")
                return


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach()).all())


def write_bundle(folder: Path, parts: Parts, meta: Mapping[str, Any], read: Read, message: str) -> str:
    """Write `folder` and say where it is, or why the disk would not have it; `parts` and `meta` as for a checkpoint."""
    batch = {"ids": read.ids, "targets": read.targets}
    if read.starts is not None:
        batch["starts"] = read.starts
    before = read.state
    parts = {**parts, "memory": before.flat(), "batch": batch}
    try:
        made = save(folder, parts, {**meta, "positions": positions_of(before), "diverged": message}, replace=True)
    except CheckpointError as error:
        return f"no bundle: {error}"
    return f"what the step was made of is in {made}"


def reproduce(folder: Path | str) -> Place | None:
    """Run the chunk of a bundle again and find the place; None where its forward is finite (a gradient was not).

    Raises CheckpointError where `folder` is no bundle, PluginError where a plugin it needs is missing.
    """
    parts, meta = load(folder)
    if "batch" not in parts:
        raise CheckpointError(f"{folder}: a checkpoint without a batch; expected a diverged-N folder of a run")
    config = make_config(meta["config"], place=str(folder))
    model = compose(config).to(dtype=getattr(torch, config.run.dtype))
    load_module(model, parts["model"], str(folder))
    batch, autocast = parts["batch"], config.run.autocast
    state = unflat(parts["memory"], meta["positions"])
    read = Read(batch["ids"], batch["targets"], state, batch.get("starts"))
    lower = None if autocast is None else torch.autocast(read.ids.device.type, dtype=getattr(torch, autocast))
    return first_not_finite(model, read, lower)
