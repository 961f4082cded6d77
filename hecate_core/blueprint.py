"""From a config to a model: `compose` makes what a file or a table describes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import asdict

from hecate_core.composing import demand_letters
from hecate_core.config import Config, load_config, make_config, schema
from hecate_core.levels import ChainLevel, LevelSpec
from hecate_core.model import LanguageModel
from hecate_core.room import demand_room


def config_of(given: Config | Mapping[str, Any] | str | Path) -> Config:
    """A Config as it is, a table of plain values, or the path of a TOML file."""
    if isinstance(given, Config):
        return given
    return make_config(given) if isinstance(given, Mapping) else load_config(given)


def compose(config: Config | Mapping[str, Any] | str | Path) -> LanguageModel:
    """The language model that a config (or a table, or a TOML file) describes, weights drawn from its seed.

    Global random state is left as it was. Raises CompositionError where parts do not fit, InputError for unknown
    names and for sizes beyond this machine's memory, and PluginError where a needed plugin does not load.
    """
    config = config_of(config)
    if config.model.memory is not None:
        demand_letters(config.model.memory.rule, config.model.memory.widths)
    demand_room(config, _made)
    return _made(config)


def demand_rows(config: Config) -> None:
    """InputError where the memory that is carried for every row of a build cannot fit beside the weights."""
    demand_room(config, _made, rows=config.data.batch)


def _made(config: Config) -> LanguageModel:
    model = config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        made = LanguageModel(
            vocab=model.vocab,
            width=model.width,
            depth=model.depth,
            channels=_channels(model),
            block={
                "heads": model.heads,
                "norm": model.norm,
                "residual": model.residual,
                "expansion": model.expansion,
                "mixer": {
                    "composition": model.composition,
                    "attention": asdict(model.attention),
                    "memory": None if model.memory is None else memory_options(model.memory),
                },
            },
        )
    return made


def levels_in(config: Config) -> list[LevelSpec] | None:
    """Every level that an optimizer of this config knows: those of the memory, then those of the chain."""
    memory, model = config.model.memory, config.model
    found = [] if memory is None else [LevelSpec(**asdict(level)) for level in memory.levels]
    if model.channel == "cms":
        found += [ChainLevel(**asdict(level)) for level in model.cms.levels]
    return found or None


def _channels(model: schema.Model) -> list[str | dict[str, Any]]:
    """The channel of every block: a chain where it is asked for, elsewhere one MLP or none."""
    if model.channel != "cms":
        return [model.channel] * model.depth
    chain = {
        **{name: getattr(model.cms, name) for name in ("deployment", "aggregate", "skip", "grain")},
        "levels": [asdict(level) for level in model.cms.levels],
        "first": 0 if model.memory is None else len(model.memory.levels),
    }
    chosen = range(model.depth) if model.cms.blocks is None else model.cms.blocks
    return [chain if index in chosen else "swiglu" for index in range(model.depth)]


def memory_options(memory: schema.Memory) -> dict[str, Any]:
    """A config's memory table as keyword arguments of `composing.leveled_memory`."""
    options = asdict(memory, recurse=False)
    options["levels"] = [asdict(level) for level in memory.levels]
    return options
