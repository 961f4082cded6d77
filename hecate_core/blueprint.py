"""From a config to a model: `compose` makes what a file or a table describes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import asdict

from hecate_core.config import Config, load_config, make_config, schema
from hecate_core.model import LanguageModel


def config_of(given: Config | Mapping[str, Any] | str | Path) -> Config:
    """A Config as it is, a table of plain values, or the path of a TOML file."""
    if isinstance(given, Config):
        return given
    return make_config(given) if isinstance(given, Mapping) else load_config(given)


def compose(config: Config | Mapping[str, Any] | str | Path) -> LanguageModel:
    """The language model that a config (or a table, or a TOML file) describes, weights drawn from its seed.

    Global random state is left as it was. Raises CompositionError where parts do not fit, InputError for unknown
    names and PluginError where a needed plugin does not load.
    """
    config = config_of(config)
    model = config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        made = LanguageModel(
            vocab=model.vocab,
            width=model.width,
            depth=model.depth,
            block={
                "heads": model.heads,
                "norm": model.norm,
                "residual": model.residual,
                "channel": model.channel,
                "expansion": model.expansion,
                "mixer": {
                    "composition": model.composition,
                    "attention": asdict(model.attention),
                    "memory": None if model.memory is None else memory_options(model.memory),
                },
            },
        )
    return made


def memory_options(memory: schema.Memory) -> dict[str, Any]:
    """A config's memory table as keyword arguments of `composing.leveled_memory`."""
    options = asdict(memory, recurse=False)
    options["levels"] = [asdict(level) for level in memory.levels]
    return options
