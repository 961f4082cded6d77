"""Tiny models whose blocks have a chain of MLPs, for tests of what learns as it reads."""

import copy
from typing import Any, cast

import torch

from hecate_core.blueprint import compose
from hecate_core.building import Build
from hecate_core.cms import CMS, ChainMLP
from hecate_core.config import make_config
from hecate_core.model import Block, LanguageModel
from hecate_core.records import State
from hecate_core.shapes import Tensor

WIDTH, VOCAB, GRAIN = 8, 17, 4


def table(channel: str = "cms", *, run: dict[str, Any] | None = None, **cms: Any) -> dict[str, Any]:
    return {
        "data": {"batch": 2, "length": GRAIN},
        "model": {
            "width": WIDTH, "heads": 2, "depth": 2, "vocab": VOCAB, "composition": "lmm", "channel": channel,
            "memory": {"rule": "delta", "chunk": 3, "conv": 2},
            **({"cms": {"grain": GRAIN, **cms}} if channel == "cms" else {}),
        },
        "schedule": {"warmup": 0, "decay": "constant"},
        "run": run or {},
    }  # fmt: skip


def model_of(channel: str = "cms", **cms: Any) -> LanguageModel:
    return compose(make_config(table(channel, **cms))).double()


def text(count: int, seed: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, VOCAB, (batch, count + 1), generator=torch.Generator().manual_seed(seed))
    return ids[:, :-1], ids[:, 1:]


def level_of(model: LanguageModel, block: int, level: int) -> ChainMLP:
    channel = cast(Block, model.blocks[block]).channel
    assert isinstance(channel, CMS)
    return cast(ChainMLP, channel.levels[level])


def logits_of(model: LanguageModel, ids: Tensor, state: State | None = None) -> Tensor:
    with torch.no_grad():
        y: Tensor = model(ids, model.init_state(len(ids)) if state is None else state)[0]
    return y


def demand_same_when_resumed(unbroken: Build, fresh: Build) -> None:
    """What `unbroken` would save now, restored into a fresh build, goes on bit for bit: losses, then every tensor."""
    parts, meta = unbroken.parts()
    saved = {part: {name: one.clone() for name, one in tensors.items()} for part, tensors in parts.items()}
    fresh.restore(saved, copy.deepcopy(meta))
    assert [unbroken.step()["loss"] for _ in range(5)] == [fresh.step()["loss"] for _ in range(5)]
    one, two = unbroken.parts()[0], fresh.parts()[0]
    assert all(torch.equal(one[part][name], two[part][name]) for part in one for name in one[part])
