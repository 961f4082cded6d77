"""Whether a model can fit at all: counted from the shapes of one block and two, before anything is allocated.

What is counted is the least that must be there (weights, and the memory carried for every row), against all the memory
that the machine or the process may have. `hecate check` estimates what a step really takes.
"""

import os
import resource
from collections.abc import Callable, Iterable

import torch
from attrs import evolve
from torch import nn

from hecate_core.config import Config, schema
from hecate_core.errors import InputError
from hecate_core.records import State
from hecate_core.shapes import Tensor

GIB = 1 << 30
SMALL = GIB  # what surely needs less is not counted: shapes cost some seconds the first time
OBJECTS = 32 << 10  # bytes of Python that a block takes beside its numbers; measured: 30 to 60 KiB
FLOAT = 4

Make = Callable[[Config], nn.Module]


def demand_room(config: Config, make: Make, *, rows: int = 0) -> None:
    """InputError where the weights, and with `rows` the memory carried for them, cannot fit into this machine.

    `make` composes a config; it is asked for models of one block and of two, on the meta device. On that device only
    the number of blocks counts.
    """
    model, free = config.model, _most()
    need = model.depth * OBJECTS
    if need <= free and torch.get_default_device().type != "meta" and _rough(model, rows) > SMALL:
        need += _least(config, make, rows)
    if need > free:
        more = f", data.batch = {rows}" if rows else ""
        raise InputError(
            f"model.width = {model.width}, model.depth = {model.depth}{more}: the model needs at least "
            f"{need / GIB:,.0f} GiB, and {free / GIB:,.0f} GiB are here; expected a smaller size"
        )


def _least(config: Config, make: Make, rows: int) -> int:
    """Bytes of weights, and of the state of so many rows, at every block's smallest."""
    cms = evolve(config.model.cms, blocks=None)
    channel = "swiglu" if config.model.cms.blocks is not None else config.model.channel
    found = []
    for depth in (1, 2):
        with torch.device("meta"):
            try:
                made = make(evolve(config, model=evolve(config.model, depth=depth, cms=cms, channel=channel)))
                state: State = made.init_state(1)  # type: ignore[operator]
            except (RuntimeError, NotImplementedError) as error:
                if "overflow" in str(error) or "Invalid negative dimension" in str(error):
                    raise MemoryError(f"model.width = {config.model.width}: a weight is beyond every address") from None
                return 0  # a part that cannot be made without numbers is not counted
        found.append(_bytes(made.parameters()) + rows * _bytes(state.flat().values()))
    return found[0] + (config.model.depth - 1) * (found[1] - found[0])


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def _rough(model: schema.Model, rows: int) -> int:
    """More bytes than any ordinary model of these numbers has: only whether it is worth to count."""
    memory, chains = model.memory, len(model.cms.levels) if model.channel == "cms" else 1
    levels = 0 if memory is None else len(memory.levels)
    wide = max([model.width, *([] if memory is None else memory.widths.values())])
    weights = wide * (wide * (8 + 16 * levels) + model.attention.persistent + (0 if memory is None else memory.conv))
    mlps = 3 * int(model.width * max(model.expansion, 1.0)) * model.width * chains
    state = rows * model.width * (2 * model.attention.window + 4 * wide * levels)
    return FLOAT * (model.depth * (weights + mlps + state) + 2 * model.vocab * model.width)


def _most() -> int:
    """Bytes that the machine has, or that the process may have where that is less."""
    here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return here if limit == resource.RLIM_INFINITY else min(here, limit)
